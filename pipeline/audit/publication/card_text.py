"""What an audit is for, and what it cannot say: told alike by its card and by Croissant."""

PURPOSE = (
    "Where a vision transformer looks: attribution maps of its predictions by several methods, described in numbers, "
    "compared with each other, searched for classes that are decided by a shortcut, and traced back to the bytes of "
    "the pictures. Made to be checked by somebody who has nothing but these files."
)
USES = (
    "Comparing attribution methods on one network, picture by picture and class by class.",
    "Finding classes whose maps point to a shortcut, as a reason to look at them.",
    "Finding single pictures to look at: wrong predictions, methods that disagree, maps that say nothing.",
    "Checking somebody's numbers again from what they were made of.",
)
MISUSES = (
    "Proof that a network is fair, safe or right. A map that looks well says nothing of that.",
    "Statements about other networks, other weights or other data.",
    "Statements about people in the pictures.",
    "Training data that is taken for the work of human annotators.",
)
LIMITS = (
    "Maps have the resolution of the patch grid: what is smaller than a patch cannot be told from what is beside it.",
    "Each map was scaled to [0, 1] by itself, so heights of two maps cannot be compared; the atlas has the bounds.",
    "Methods see different things in one network. Where they disagree, nothing here says which of them is right.",
    "Sanity checks rank nothing: a method that passes them need not be faithful, and controls may pass some.",
    "Faithfulness by perturbation shows the network pictures unlike any that it was trained on.",
    "Localization scores whose threshold was chosen on the same pictures are an upper bound, not what a user gets.",
    "A search for shortcuts sees only cues with a place of their own that not all classes share, in enough pictures; "
    "no alarm is no acquittal.",
    "Maps were computed on one kind of machine; another one may differ in the last bits, as far as was measured.",
)
BIASES = (
    "Centre bias: photographers put objects in the middle, and a map that always shows the middle scores well by that. "
    "Compare with the control named center, where there is one.",
    "Size bias: an even map has as much mass on the object as the object has area. Compare with the control named "
    "uniform, where there is one.",
    "Pictures, labels and their mistakes are those of the data set that the network was run on, with all its biases.",
    "Pictures that could not be decoded, and labels that could not be used, are missing; they are counted.",
)
PROTOCOL = (
    "No person annotated anything. A network was run over all pictures, each attribution method gave a map of the "
    "class that was labelled or predicted, and all numbers were computed from these maps."
)
