"""The product page, as one self-contained HTML document. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

SUMMARY = (
    "The Comedy of Errors is one of <b>William Shakespeare’s</b> early plays. It is his shortest and one of his most "
    "farcical comedies, with a major part of the humour coming from slapstick and mistaken identity, in addition to "
    "puns and word play."
)

STYLE = (Path(__file__).parent / "page.css").read_text()

_HEAD = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The Comedy of Errors · Bookinfo</title>
<style>{STYLE}</style>
</head>
<body>
<header class="bar"><b>Bookinfo</b>"""

_BODY = f"""</header>
<main>
<h1>The Comedy of Errors</h1>
<p class="lead">{SUMMARY} <a href="https://en.wikipedia.org/wiki/The_Comedy_of_Errors">Wikipedia</a></p>
<div class="columns">
<section id="details">
"""

_MIDDLE = """</section>
<section id="reviews">
"""

_FOOT = """</section>
</div>
</main>
</body>
</html>
"""

_LOGIN = (
    '<form action="login" method="post"><label for="username">User</label>'
    '<input id="username" name="username" autocomplete="username" size="12" required>'
    "<button>Sign in</button></form>"
)

DETAIL_NAMES = (
    ("author", "Author"),
    ("year", "Year"),
    ("type", "Type"),
    ("pages", "Pages"),
    ("publisher", "Publisher"),
    ("language", "Language"),
    ("ISBN-10", "ISBN-10"),
    ("ISBN-13", "ISBN-13"),
)


def product_page(details: Mapping[str, Any], reviews: Mapping[str, Any], user: str) -> str:
    """The page; `details` and `reviews` are what the services answered, or `{"error": ...}` in their place."""
    parts = [_HEAD, _account(user), _BODY, *_details(details), _MIDDLE, *_reviews(reviews), _FOOT]
    return "".join(parts)


def index_page(user: str) -> str:
    """Where `/` leads: one link to the page."""
    body = _BODY.partition("<h1>")[0]
    return (
        f"{_HEAD}{_account(user)}{body}<h1>Bookinfo</h1>"
        '<p class="lead">productpage asks details and reviews; reviews v2 and v3 ask ratings.</p>'
        '<p><a href="productpage">The product page</a></p></main></body></html>\n'
    )


def _account(user: str) -> str:
    if not user:
        return _LOGIN
    return f'<span>Signed in as <b id="user">{escape(user)}</b> · <a href="logout">Sign out</a></span>'


def _details(details: Mapping[str, Any]) -> list[str]:
    if "error" in details:
        return [
            "<h2>Error fetching product details!</h2>",
            f'<p class="notice">{escape(str(details["error"]))}</p>\n',
        ]
    rows = [f"<dt>{title}</dt><dd>{escape(str(details.get(key, '')))}</dd>" for key, title in DETAIL_NAMES]
    return ["<h2>Book details</h2>\n<dl>", *rows, "</dl>\n"]


def _reviews(reviews: Mapping[str, Any]) -> list[str]:
    if "error" in reviews:
        return [
            "<h2>Error fetching product reviews!</h2>",
            f'<p class="notice">{escape(str(reviews["error"]))}</p>\n',
        ]
    parts = ["<h2>Book reviews</h2>\n"]
    for review in reviews.get("reviews", ()):
        parts.append(f"<blockquote><p>{escape(str(review.get('text', '')))}</p>")
        parts.append(f"<footer>{escape(str(review.get('reviewer', '')))}</footer>")
        rating = review.get("rating")
        if rating:
            parts.append(_rating(rating))
        parts.append("</blockquote>\n")
    served = f"{escape(str(reviews.get('podname', '')))}"
    version = escape(str(reviews.get("version", "")))
    parts.append(
        f'<p class="served">Reviews served by <code id="reviews-instance">{served}</code>'
        f' (version <code id="reviews-version">{version}</code>)</p>\n'
    )
    return parts


def _rating(rating: Mapping[str, Any]) -> str:
    if "error" in rating:
        return f'<p class="notice">{escape(str(rating["error"]))}</p>'
    stars = min(5, max(0, int(rating.get("stars", 0))))
    color = "red" if rating.get("color") == "red" else "black"
    return (
        f'<div class="stars {color}" title="{stars} of 5" aria-label="{stars} of 5 stars">'
        f'{"★" * stars}<span class="off">{"★" * (5 - stars)}</span></div>'
    )
