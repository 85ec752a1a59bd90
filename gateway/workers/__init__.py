"""One gateway a core: a supervisor that holds what there is only one of, and the workers that it keeps running."""
