"""Arrays only, no Flax: fusing, moments, regression, placement on a mesh."""
