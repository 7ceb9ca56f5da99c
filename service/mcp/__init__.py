"""An MCP server (Model Context Protocol): agents write, ask, list and delete memories with it."""
