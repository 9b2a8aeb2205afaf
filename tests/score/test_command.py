"""``vitatlas score``: the table that people read, and the JSON that programs do."""

import json
from pathlib import Path

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.store import Atlas
from schemas.scores import LOCALIZATION


def test_the_table_fits_and_the_json_has_every_column(
    vitatlas, atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    content = json.loads((world.truth / "instances.json").read_text())
    content["images"] = content["images"][:16]
    content["annotations"] = [annotation for annotation in content["annotations"] if annotation["image_id"] < 16]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    given = ["score", atlas.objects.url, "--truth", tmp_path / "truth.json", "--methods", "legrad,center"]
    code, _, err = vitatlas(*given)
    assert code == 2
    assert "scene_000016: truth.json has no annotation" in err
    assert "whole multiple of 0.001" in vitatlas(*given, "--grid-step", "0.0015")[2]
    given += ["--subset", "--out", tmp_path / "out"]
    code, text, err = vitatlas(*given)
    assert code == 0
    assert "32 of 48 images" in err
    assert max(map(len, text.splitlines()[1:])) <= 160
    for expected in ("legrad", "center *", "whole image *", "PxAP", "GT-known", "Top-1", "16 images", "tuned on 8"):
        assert expected in text
    assert sum(line.startswith("│") for line in text.splitlines()) == 4  # no cell is broken over lines
    rows = json.loads(vitatlas(*given, "--json")[1])
    assert [set(row) for row in rows] == [set(LOCALIZATION.names)] * 4


def test_its_help_has_examples(vitatlas) -> None:
    code, text, _ = vitatlas("score", "--help")
    assert code == 0
    assert "vitatlas score val.atlas --truth instances.json" in text
