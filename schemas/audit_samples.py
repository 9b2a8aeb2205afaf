"""How many images an audit samples for each of its parts that run the network."""

FAITHFULNESS_IMAGES = 500
"""Images for faithfulness metrics, which take most of the time. 1,000 give intervals that are 0.7 times as wide."""
SANITY_IMAGES = 100
"""Images for sanity metrics, which compute the maps of a model many times over."""
RECOMPUTED_IMAGES = 256
"""Images whose maps are recomputed from the shards."""
