"""What a client is told that cannot have what it asked for, in the form that OpenAI's packages parse."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse

from asr.errors import AsrError

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class RequestError(AsrError):
    """A request that is answered with ``status`` and a sentence. ``param`` names the field that is at fault, ``code``
    is for programs, and ``retry_after`` says after how many seconds it is worth another try."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, status_code=self.status, headers=headers)


def invalid(message: str, param: str | None, code: str = "invalid_value") -> RequestError:
    """A field that is missing or holds what it may not."""
    return RequestError(400, message, param=param, code=code)


def unexpected() -> RequestError:
    """What a client hears of a fault that is ours; the log says more."""
    return RequestError(500, "the server failed to answer this request: its log says why", code="internal_error")
