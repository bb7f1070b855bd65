"""From documents to samples: the corpus, the roles of its documents, the store of activations."""
