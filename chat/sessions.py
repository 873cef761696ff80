"""Sessions: what a browser shows to be somebody without a password each time. Only those that were ended are stored."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from itsdangerous import BadSignature

from chat.secret import signer

LIFE = timedelta(days=14)
RENEW_AFTER = timedelta(days=1)
PURPOSE = "parley session 2"  # another one for another form of the tokens: those before are nobody's


@dataclass(frozen=True, slots=True)
class Session:
    """Whose a session is, and which of theirs: all of an epoch end together."""

    user_id: str
    epoch: int
    id: str  # stays when it is renewed
    is_old: bool  # enough to be renewed


class Sessions:
    """Issues the tokens of sessions, and reads those that it has issued. Threads may share it."""

    def __init__(self, secret: bytes) -> None:
        self._serializer = signer(secret, PURPOSE)

    def issue(self, user_id: str, epoch: int) -> str:
        """Return the token of a new session of an account."""
        return self._sign(user_id, epoch, secrets.token_urlsafe(16))

    def renew(self, session: Session) -> str:
        """Return a token with which a session lives on."""
        return self._sign(session.user_id, session.epoch, session.id)

    def read(self, token: str) -> Session | None:
        """Return the session of a token; None if it has expired, or is not one of ours."""
        try:
            content, issued_at = self._serializer.loads(token, max_age=int(LIFE.total_seconds()), return_timestamp=True)
        except BadSignature:
            return None
        user_id, epoch, session_id = content
        return Session(user_id, epoch, session_id, is_old=datetime.now(UTC) - issued_at > RENEW_AFTER)

    def _sign(self, user_id: str, epoch: int, session_id: str) -> str:
        return str(self._serializer.dumps([user_id, epoch, session_id]))
