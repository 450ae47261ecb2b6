"""What a source holds: files to ignore, class folders, given splits, tables, and messages on files of other kinds."""
