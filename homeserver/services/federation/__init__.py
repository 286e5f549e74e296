"""EDUs and queries of other servers."""
