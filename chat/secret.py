"""The secret that signs what the server gives away and gets back: sessions, and the tokens of visitors."""

import os
import secrets
from hashlib import sha256
from pathlib import Path

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
    secret, unfinished = secrets.token_bytes(SECRET_BYTES), path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode=0o600), "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    return secret
