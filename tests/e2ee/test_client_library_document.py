"""The snippet of `docs/client-library.md` runs as it stands there."""

import asyncio
import subprocess
import sys
from pathlib import Path

from tests.e2ee.fake_homeserver import FakeHomeserver
from tests.e2ee.loopback_homeserver import served

ROOT = Path(__file__).parents[2]


async def test_the_documents_snippet_works(tmp_path: Path) -> None:
    """Only the homeserver's address is another."""
    document = (ROOT / "docs" / "client-library.md").read_text()
    snippet = document.partition("```python\n")[2].partition("```")[0]
    async with served(FakeHomeserver("hs.example.org")) as base_url:
        program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + snippet.replace(
            "https://hs.example.org", base_url
        )
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "error", "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stderr == ""
    assert done.stdout == "@alice:hs.example.org Hello, Bob\n"
