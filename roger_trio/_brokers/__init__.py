"""Where jobs live: bytes and queue names, nothing of what a job is."""
