"""The secret that signs what the server gives away and gets back: sessions, and the tokens of visitors."""

import os
import secrets
from hashlib import sha256
from pathlib import Path
from tempfile import mkstemp

from itsdangerous import URLSafeTimedSerializer

from chat.settings import SettingsError

SECRET_BYTES = 32
FEWEST_VALUES = 17  # that 32 random bytes have, but once in 10^14 times


def load_secret(data: Path) -> bytes:
    """Return the secret of a data folder, made at the first call; raises SettingsError for one that can be guessed."""
    path = data / "secret.key"
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        secret = _make(path)
    is_text = secret.isascii()  # random bytes are once in 4 * 10^9 times
    if len(secret) != SECRET_BYTES or len(set(secret)) < FEWEST_VALUES or is_text:
        raise SettingsError(
            f"The secret {path} must be {SECRET_BYTES} random bytes, and it is something else: delete it and start "
            "Parley again, which makes a new one. All must log in again then."
        )
    return secret


def signer(secret: bytes, purpose: str) -> URLSafeTimedSerializer:
    """Return what signs with a secret for one purpose: what it has signed is worth nothing for another."""
    kwargs = {"key_derivation": "hmac", "digest_method": sha256}
    return URLSafeTimedSerializer(secret, salt=purpose, signer_kwargs=kwargs)


def _make(path: Path) -> bytes:
    """Make the secret, readable for its user alone, and return it, or that of another process that was faster."""
    descriptor, name = mkstemp(dir=path.parent, prefix=".secret-")
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        _put(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path.read_bytes()


def _put(made: Path, path: Path) -> None:
    """Give a file that is whole its name, unless another process has given it to its own."""
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError:  # some file systems have no links
        made.replace(path)
