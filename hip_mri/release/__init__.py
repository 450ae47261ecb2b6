"""From finished runs to the one model that serves: versions, the champion, and the gate before it."""
