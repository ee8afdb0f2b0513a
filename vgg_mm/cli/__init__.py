"""The package's configs by name, and ``vgg-mm``, which runs the commands."""
