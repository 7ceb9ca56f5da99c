"""The page at `/`, where people write, ask and see a memory; its files are in `service/page/`."""

from os import PathLike, stat_result

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

FILES = "/page"
HEADERS = {
    "Cache-Control": "no-cache",  # kept, but asked for by its ETag: a new version shows at once
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"Headers of the page and its files: its browser asks no other server, and runs no other scripts."


class PageFiles(StaticFiles):
    """The files of the page, with its headers."""

    def file_response(
        self,
        full_path: str | PathLike[str],
        stat_result: stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Respond with a file, or with 304 where the browser has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response


def add_front_page(app: FastAPI) -> None:
    """Add the page and its files to an app. They need no key: the page asks for it."""
    page_files = PageFiles(packages=[("service", "page")])

    async def show_page(request: Request) -> Response:
        return await page_files.get_response("index.html", request.scope)

    app.add_api_route("/", show_page, include_in_schema=False)
    app.mount(FILES, page_files)
