"""From bytes to gray levels, and what gray levels show. Pure functions: nothing here knows a workspace."""
