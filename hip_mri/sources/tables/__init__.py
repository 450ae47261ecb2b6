"""Tables of patients, labels and splits that users give."""
