"""Certificates for tests, made on the spot by the openssl command: an authority and what it signs. Never used outside of a test."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: str
    key: str


class Authority:
    """Signs certificates with elliptic-curve keys: a few milliseconds each."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self.ca = str(directory / f"{name}.pem")
        self._key = str(directory / f"{name}.key")
        _openssl("req", "-x509", *_new_key(self._key), "-subj", f"/CN={name}", "-days", "2", "-out", self.ca)

    def issue(self, name: str, *, names: str = "DNS:localhost,IP:127.0.0.1", days: int = 2) -> Pair:
        """A certificate for these names (as in subjectAltName); with negative `days` one that has expired."""
        pair = Pair(str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key"))
        request = str(self._directory / f"{name}.csr")
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n")
        _openssl("req", *_new_key(pair.key), "-subj", f"/CN={name}", "-out", request)
        validity = ["-days", str(days)]
        signer = ["-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-extfile", str(extensions)]
        _openssl("x509", "-req", "-in", request, *signer, *validity, "-out", pair.certificate)
        return pair

    def client(self, own: Pair | None = None) -> ssl.SSLContext:
        """A client that trusts this authority alone, and shows `own`."""
        context = ssl.create_default_context(cafile=self.ca)
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        return context


def _new_key(path: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]


def _openssl(*arguments: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise RuntimeError("openssl is needed; install it (Debian: apt-get install openssl) and run again")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
