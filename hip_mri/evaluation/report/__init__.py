"""The HTML report, the model card and the reporting checklists of a run."""
