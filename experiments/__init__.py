"""Long runs that back a claim in the docs; each is one command."""
