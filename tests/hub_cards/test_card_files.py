"""Cards on disk: written, previewed, and never over what somebody wrote."""

import re

from speechllm.cli.main import main
from speechllm.hub_cards.rendering import may_be_replaced
from speechllm.training.speech_trainer import SpeechTrainer
from transformers import Trainer, TrainingArguments

WRITTEN_BY_HAND = "---\nlicense: mit\n---\n# Mine\n"


def test_card_and_pictures_are_written_beside_the_checkpoint(checkpoint):
    assert main(["card", str(checkpoint), "--write"]) == 0
    text = (checkpoint / "README.md").read_text()
    for picture in re.findall(r"\]\((card/[^)]+)\)", text):
        assert (checkpoint / picture).read_bytes().startswith(b"\x89PNG")
    assert "card/architecture.png" in text


def test_card_that_somebody_wrote_or_changed_is_never_overwritten(checkpoint, capsys):
    (checkpoint / "README.md").write_text(WRITTEN_BY_HAND)
    assert main(["card", str(checkpoint), "--write"]) == 1
    assert "was written or changed by somebody" in capsys.readouterr().err
    assert (checkpoint / "README.md").read_text() == WRITTEN_BY_HAND
    (checkpoint / "README.md").unlink()
    assert main(["card", str(checkpoint), "--write"]) == 0
    ours = (checkpoint / "README.md").read_text()
    # Unchanged, ours may be renewed; with a word of somebody's, it may not.
    assert main(["card", str(checkpoint), "--write"]) == 0
    (checkpoint / "README.md").write_text(ours.replace("# mine", "# mine, and very good"))
    assert main(["card", str(checkpoint), "--write"]) == 1


def test_card_of_the_trainer_is_replaced_by_ours_and_not_the_other_way_round(checkpoint, compose):
    arguments = TrainingArguments(str(checkpoint), report_to=[], use_cpu=True)
    stock = Trainer(compose()[0], arguments)
    stock.create_model_card(model_name="mine")
    assert may_be_replaced((checkpoint / "README.md").read_text())
    assert main(["card", str(checkpoint), "--write"]) == 0
    ours = (checkpoint / "README.md").read_text()
    SpeechTrainer.create_model_card(stock, model_name="mine")
    assert (checkpoint / "README.md").read_text() == ours


def test_page_holds_its_pictures_and_asks_for_nothing(run_folder, evaluation_folder, tmp_path):
    page = tmp_path / "card.html"
    words = ["--results", str(evaluation_folder), "--html", str(page)]
    assert main(["card", str(run_folder), *words]) == 0
    html = page.read_text()
    sources = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert sum(source.startswith("data:image/png;base64,") for source in sources) >= 4
    assert all(source.startswith(("data:", "https://huggingface.co/")) for source in sources)
    assert "<script" not in html and "@import" not in html and "<img data-missing" not in html
    assert "<table>" in html and "speechllm card" not in html.rpartition("Citation")[2]


def test_tags_in_a_card_are_shown_and_not_run(tmp_path):
    from speechllm.hub_cards.model_card import Card
    from speechllm.hub_cards.preview import preview_page

    html = preview_page(
        Card("---\na: <script>1</script>\n---\n# <script>2</script>\n\n![x](card/none.png)\n")
    )
    assert "<script" not in html and 'data-missing="card/none.png"' in html
