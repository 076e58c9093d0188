"""One file per section of the page: sources in, a `Section` out, or None where there is nothing to show."""
