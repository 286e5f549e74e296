"""Pages for browsers, from templates.

Rules:
1. Every value is escaped. A page has no script but those of this module, which the header
   Content-Security-Policy allows by their hash: what a user or a provider chose can't run.
2. Pages work without scripts where the specification doesn't ask for one; none is kept by the
   browser, framed by another site, or tells the next site where it came from.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

STYLE = (
    "body{margin:0;padding:24px;background:#f4f5f7;color:#1d2129;font:16px/1.5 sans-serif}"
    "main{max-width:480px;margin:32px auto;padding:24px;background:#fff;border-radius:8px}"
    "h1{font-size:22px;margin-top:0}label{display:block;margin:12px 0 4px}"
    "input[type=text],input[type=password]{width:100%;padding:10px;box-sizing:border-box;"
    "font:inherit;border:1px solid #8a919c;border-radius:6px}"
    "button,a.button{display:inline-block;margin-top:16px;padding:10px 18px;border:0;font:inherit;"
    "border-radius:6px;background:#2453a6;color:#fff;text-decoration:none;cursor:pointer}"
    "ul.choices{list-style:none;padding:0}.error{color:#a02020}.note{color:#5c6470;font-size:14px}"
    "img.icon{height:24px;vertical-align:middle;margin-right:8px}"
)

AUTH_DONE = (
    "if(window.onAuthDone){window.onAuthDone()}"
    'else if(window.opener&&window.opener.postMessage){window.opener.postMessage("authDone","*")}'
)
"""Tells the client that a stage is done (spec: "Fallback")."""

LOG_IN = """\
(function () {
  var form = document.getElementById("login"), told = document.getElementById("error");
  form.addEventListener("submit", function (event) {
    event.preventDefault();
    told.textContent = "";
    var body = {type: "m.login.password"}, user = form.elements.user.value;
    Array.prototype.forEach.call(form.elements, function (field) {
      if (field.type === "hidden" || field.name === "password") { body[field.name] = field.value; }
    });
    body.identifier = user.indexOf("@") > 0
      ? {type: "m.id.thirdparty", medium: "email", address: user}
      : {type: "m.id.user", user: user};
    fetch(form.dataset.url, {method: "POST", body: JSON.stringify(body)}).then(function (answer) {
      return answer.json().then(function (response) {
        if (!answer.ok) { throw new Error(response.error || "The log-in failed."); }
        if (window.matrixLogin && window.matrixLogin.onLogin) {
          window.matrixLogin.onLogin(response);
        }
        form.hidden = true;
        told.textContent = "You are logged in. Go back to your app.";
      });
    }).catch(function (error) { told.textContent = error.message; });
  });
})();
"""
"""Logs in and hands the answer to the client (spec: "Login Fallback")."""


@dataclass(frozen=True, slots=True)
class Page:
    """The HTML of a page, and its headers."""

    html: bytes
    headers: Mapping[str, str]


class Pages:
    """Renders pages of one server."""

    def __init__(self, server_name: str) -> None:
        self._templates = Environment(
            loader=PackageLoader("homeserver.web", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals["server_name"] = server_name
        self._templates.globals["style"] = Markup(STYLE)

    def render(
        self,
        name: str,
        *,
        script: str = "",
        script_sources: Sequence[str] = (),
        connects: bool = False,
        **values: object,
    ) -> Page:
        """Returns a page. `script` is one of this module's texts; `script_sources` are origins
        whose scripts and frames the page may load; `connects`: its script asks this server."""
        text = self._templates.get_template(f"{name}.html").render(script=Markup(script), **values)
        scripts = [*([_hash_of(script)] if script else ()), *script_sources]
        policy = [
            "default-src 'none'",
            # A captcha brings styles of its own, and a hash would switch 'unsafe-inline' off.
            "style-src 'unsafe-inline'" if script_sources else f"style-src {_hash_of(STYLE)}",
            "img-src https: http: data:",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ]
        if scripts:
            policy.append(f"script-src {' '.join(scripts)}")
        if connects:
            policy.append("connect-src 'self'")
        if script_sources:
            policy.append(f"frame-src {' '.join(script_sources)}")
            policy.append(f"connect-src {' '.join(script_sources)}")
        return Page(
            text.encode(),
            {
                "Content-Security-Policy": "; ".join(policy),
                "X-Frame-Options": "DENY",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-store",
            },
        )


def _hash_of(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
