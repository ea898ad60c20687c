"""Files of labels that others published: copied from a folder or a URL, each checked against its SHA-256."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.files import whole_file
from rewards import InputError


@dataclass(frozen=True)
class PublishedFiles:
    """Files of one publication.

    Attributes:
        url: where they are: the base URL of their folder.
        sha256: the SHA-256 of each file, by its name.
        words: what messages call the files together.
        command: the command that fetches them.
    """

    url: str
    sha256: Mapping[str, str]
    words: str
    command: str

    def fetch(self, source: str | Path | None, target: Path, timeout: float = 60.0) -> Path:
        """Copy the files into a folder. Each is checked before it is put in place.

        Args:
            source: a folder, or the base URL of one; None for the official place.
            target: the folder to fill. Correct files that are already there are kept.
            timeout: seconds to wait for the network, per file.

        Returns:
            The folder.

        Raises:
            InputError: a file is missing, truncated or changed at the source, or the network is out of reach.
            CheckError: a file cannot be written.
        """
        base = self.url if source is None else str(source)
        for name, digest in self.sha256.items():
            path = target / name
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
                continue
            content = self._read(base, name, timeout)
            self.check(f"{base}/{name}", name, content)
            with whole_file(path) as file:
                file.write(content)
        return target

    def check(self, where: str, name: str, content: bytes) -> None:
        """Raise an `InputError` if the content of a file is not as published; `where` is what to call it."""
        digest, wanted = hashlib.sha256(content).hexdigest(), self.sha256[name]
        if digest == wanted:
            return
        hint = "the file is truncated or was changed"
        if hashlib.sha256(content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")).hexdigest() == wanted:
            hint = "the text is right, but its line ends or a byte-order mark were changed"
        raise InputError(f"{where}: SHA-256 is {digest[:12]}…, not {wanted[:12]}…: {hint}; run `{self.command}`")

    def _read(self, base: str, name: str, timeout: float) -> bytes:
        if "://" not in base:
            path = Path(base) / name
            if not path.is_file():
                raise InputError(f"{path}: no such file; --source must be the folder that holds {self.words}")
            return path.read_bytes()
        if not base.startswith(("https://", "http://")):
            raise InputError(f"{base}: --source must be a folder or an http(s) URL; pass one of these")
        url = f"{base.rstrip('/')}/{name}"
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response:
                expected = response.headers.get("Content-Length")
                content: bytes = response.read()
        except http.client.IncompleteRead as error:
            raise InputError(
                f"{url}: truncated download, {len(error.partial)} bytes arrived; fetch it again"
            ) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise InputError(
                f"{url}: cannot be fetched ({error}); pass --source FOLDER with the files, or try again"
            ) from error
        if expected is not None and len(content) != int(expected):
            raise InputError(f"{url}: truncated download, {len(content)} of {expected} bytes; fetch it again")
        return content
