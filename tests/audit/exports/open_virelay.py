"""Open a project as ViRelAy does and print what it finds as JSON. Run by another interpreter: it is under the AGPL."""

import json
import sys

import numpy as np
from virelay.model import Workspace

workspace = Workspace()
workspace.add_project(sys.argv[1])
(name,) = workspace.get_project_names()
project = workspace.get_project(name)
(method,) = project.get_analysis_methods()
(clustering,) = project.get_analysis_clustering_names(method)
(embedding,) = project.get_analysis_embedding_names(method)
categories, pictures = [], []
for category in project.get_analysis_categories(method):
    analysis = project.get_analysis(method, category.name, clustering, embedding)
    categories.append(
        {
            "name": category.name,
            "readable": category.human_readable_name,
            "clusters": analysis.clustering.tolist(),
            "places": analysis.attribution_indices.tolist(),
            "embedding": analysis.embedding.tolist(),
            "eigenvalues": analysis.eigenvalues.tolist(),
        }
    )
for place in range(len(project.dataset)):
    sample, attribution = project.get_sample(place), project.get_attribution(place)
    if attribution.data.any():  # of nothing it would divide by 0
        shapes = [
            np.shape(attribution.render_heatmap(colours, image))
            for colours in ("jet", "black-fire-red", "gray-red")
            for image in (None, sample.data)
        ]
    else:
        shapes = []
    pictures.append(
        {
            "pixels": int(sample.data.sum(dtype=np.int64)),
            "labels": [[label.index, label.name] for label in attribution.labels],
            "map": attribution.data.sum(2).astype(float).tolist(),
            "prediction": int(attribution.prediction.argmax()),
            "rendered": shapes,
        }
    )
workspace.close()
print(json.dumps({"name": name, "categories": categories, "pictures": pictures}))
