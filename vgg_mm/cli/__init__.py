"""What commands share: their arguments, configs and processes, and ``vgg-mm`` that runs them."""
