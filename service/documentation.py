"""The page `/docs`: Swagger UI with files that are served from here."""

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles

FILES = "/docs/files"
POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline';"
    " script-src 'self' 'unsafe-inline'"
)
"Content security policy of the page: its browser asks no other server for anything."


def add_documentation(app: FastAPI) -> None:
    """Add the page and its files to an app."""
    # The package is made for this; its own function would build the app.
    app.mount(FILES, StaticFiles(packages=[("fastapi_offline", "static")]))
    app.add_api_route("/docs", _show_page, include_in_schema=False)


async def _show_page(request: Request) -> Response:
    root = request.scope.get("root_path", "")
    page = get_swagger_ui_html(
        openapi_url=f"{root}{request.app.openapi_url}",
        title=request.app.title,
        swagger_js_url=f"{root}{FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{FILES}/swagger-ui.css",
        swagger_favicon_url=f"{root}{FILES}/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},
    )
    page.headers["Content-Security-Policy"] = POLICY
    return page
