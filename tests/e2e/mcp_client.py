"""The official client of MCP speaks with `pawctl mcp`: mcp_client.py PAWCTL ROOT prints what it was told, as JSON."""

import asyncio
import json
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main(pawctl, root):
    server = StdioServerParameters(command=pawctl, args=["--root", root, "mcp", "--agent", "default"])
    async with stdio_client(server) as (reads, writes):
        async with ClientSession(reads, writes) as session:
            await session.initialize()
            listed = await session.list_tools()
            tools = [tool.model_dump(by_alias=True) for tool in listed.tools]
            told = {"tools": {tool["name"]: tool["inputSchema"] for tool in tools}}
            for key, tool, arguments in [
                ("list", "files__list", {"path": "."}),
                ("missing", "files__read", {"path": "missing.txt"}),
                # A person is asked, and says what the test has them say.
                ("approved", "files__write", {"path": "yes.txt", "text": "hello"}),
                ("denied", "files__write", {"path": "no.txt", "text": "hello"}),
                ("read", "files__read", {"path": "yes.txt"}),
            ]:
                answer = (await session.call_tool(tool, arguments)).model_dump(by_alias=True)
                text = "\n".join(part["text"] for part in answer["content"] if part["type"] == "text")
                told[key] = {"error": bool(answer["isError"]), "text": text}
            try:
                await session.call_tool("files__erase", {})
                told["unknown"] = "answered"
            except Exception as error:
                told["unknown"] = str(error)
    print(json.dumps(told))


asyncio.run(main(*sys.argv[1:]))
