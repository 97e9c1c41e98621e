"""How fast and how cheap: ours and what users pick instead, with the same work in the same run."""
