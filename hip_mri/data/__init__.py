"""From a zip of class folders to checked, split and contrast-enhanced images."""
