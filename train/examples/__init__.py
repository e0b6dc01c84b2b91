"""Short programs, one for each library: a model in, a smaller model out."""
