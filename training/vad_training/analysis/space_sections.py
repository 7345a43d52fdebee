"""Sections about where clips lie: distances, hyperspheres and projections."""

from vad_training.analysis.boxes import box_sheet, draw_boxes, groups_by_class
from vad_training.analysis.distances import (
    draw_hyperspheres,
    draw_median_distances,
    hyperspheres_of,
    median_distances,
)
from vad_training.analysis.options import Options
from vad_training.analysis.projection import (
    cannot_project,
    chosen_rows,
    draw_projection,
    tsne_of,
    umap_available,
    umap_of,
)
from vad_training.analysis.section import Cell, Picture, Section, Sheet
from vad_training.analysis.table import SPACES, ClipTable


def distance_section(table: ClipTable, _options: Options) -> Section:
    """Box plots of the distance to the own and the nearest centroid, and of classes to all."""
    pictures, sheets, left_out = [], [], []
    for name in SPACES:
        space = table.spaces.get(name)
        if space is None:
            left_out.append(f"Distances in the {name} space: left out, the table has none.")
            continue
        groups = groups_by_class(table, space.own)
        if groups:
            stem = f"{name}_distance_by_class"
            figure = draw_boxes(groups, f"{name} distance to the own centroid")
            caption = f"Distance of each {name} to the centroid of its own class"
            pictures.append(Picture(name=stem, caption=caption, figure=figure))
            sheets.append(box_sheet(stem, groups))
        else:
            left_out.append(
                f"Distance to the own centroid, {name} space: left out, it is not in the table."
            )
        if space.to_centroids is None or not space.centroids:
            left_out.append(
                f"Each class to each centroid, {name} space: left out, the table has only the "
                "distance to the own centroid, or no training clips."
            )
            continue
        nearest = groups_by_class(table, space.to_centroids.min(axis=1))
        stem = f"{name}_distance_to_nearest"
        figure = draw_boxes(nearest, f"{name} distance to the nearest centroid")
        caption = f"Distance of each {name} to the nearest centroid, of whatever class"
        pictures.append(Picture(name=stem, caption=caption, figure=figure))
        sheets.append(box_sheet(stem, nearest))
        stem = f"{name}_distance_to_centroids"
        values = median_distances(table, space)
        names = table.class_names
        caption = f"Median {name} distance of each class (row) to each centroid (column)"
        figure = draw_median_distances(names, space.centroids, values)
        pictures.append(Picture(name=stem, caption=caption, figure=figure))
        rows: list[tuple[Cell, ...]] = [
            (row, *map(float, line)) for row, line in zip(names, values, strict=True)
        ]
        sheets.append(Sheet(name=stem, columns=("class", *space.centroids), rows=rows))
    return Section(
        title="Distances to the class centroids",
        text="A centroid is the mean of the training clips of a class, in the space of the "
        "embeddings (the backbone's output) or of the latents (the autoencoder's code). Distances "
        "are Euclidean and have no unit. Classes that were not learnt have no centroid of their "
        "own: the nearest one says how far they are from everything that was. Where classes are "
        "told apart, each is nearest to its own centroid (red frame), and classes that were not "
        "learnt are far from all of them.",
        pictures=pictures,
        sheets=sheets,
        left_out=left_out,
    )


def hypersphere_section(table: ClipTable, _options: Options) -> Section:
    """Counts inside the hyperspheres of the farthest own and the nearest foreign clip."""
    pictures, sheets, left_out = [], [], []
    for name in SPACES:
        space = table.spaces.get(name)
        spheres = []
        if space is not None and space.to_centroids is not None:
            spheres = hyperspheres_of(table, space)
        if not spheres:
            left_out.append(
                f"Hyperspheres in the {name} space: left out, they need training clips, clips of "
                "a second class, and the distances of all to every centroid."
            )
            continue
        stem = f"{name}_hyperspheres"
        caption = f"Hyperspheres in the {name} space"
        pictures.append(Picture(name=stem, caption=caption, figure=draw_hyperspheres(spheres)))
        columns = tuple(vars(spheres[0]))
        rows = [tuple(vars(sphere).values()) for sphere in spheres]
        sheets.append(Sheet(name=stem, columns=("class", *columns[1:]), rows=rows))
    return Section(
        title="Hyperspheres around the centroids",
        text="Left: how many clips of a class are nearer to its centroid than any foreign clip "
        "(100 % = the class lies alone). Right: how many clips of other classes are in the sphere "
        "that reaches to the farthest training clip of the class (0 % = nothing strange is in it).",
        pictures=pictures,
        sheets=sheets,
        left_out=left_out,
    )


def projection_section(table: ClipTable, options: Options) -> Section:
    """t-SNE and UMAP of embeddings and latents."""
    pictures, sheets, left_out = [], [], []
    kept = chosen_rows(len(table), options.most_points, options.seed)
    if len(kept) < len(table):
        left_out.append(f"Of the {len(table)} clips {len(kept)} are drawn, chosen by lot.")
    methods = {"tsne": ("t-SNE", tsne_of)}
    if umap_available():
        methods["umap"] = ("UMAP", umap_of)
    else:
        left_out.append("UMAP: left out, it is not installed (pip install umap-learn).")
    for name in SPACES:
        points = table.spaces[name].points if name in table.spaces else None
        why = (
            "a CSV holds no coordinates; analyse a run folder"
            if points is None
            else cannot_project(points[kept])
        )
        if points is None or why is not None:
            left_out.append(f"Projections of the {name}s: left out, {why}.")
            continue
        for key, (title, method) in methods.items():
            plane = method(points[kept], options.seed)
            classes, splits = table.classes[kept], table.splits[kept]
            figure = draw_projection(plane, classes, splits, table.class_names)
            stem = f"{key}_{name}"
            pictures.append(Picture(name=stem, caption=f"{title} of the {name}s", figure=figure))
            rows: list[tuple[Cell, ...]] = [
                (table.videos[i], str(table.classes[i]), str(table.splits[i]), float(x), float(y))
                for i, (x, y) in zip(kept.tolist(), plane, strict=True)
            ]
            sheets.append(
                Sheet(name=stem, columns=("video", "class", "split", "x", "y"), rows=rows)
            )
    return Section(
        title="Clips on a plane",
        text="Each dot is a clip; clips that are neighbours in the full space are neighbours here. "
        "Groups mean something; the distance between groups, their size and the axes do not.",
        pictures=pictures,
        sheets=sheets,
        left_out=left_out,
    )
