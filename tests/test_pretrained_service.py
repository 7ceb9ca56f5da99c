"""From a Hugging Face folder or a GGUF file to a served memory, by documented commands."""

import base64
import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from benchmarks.rows import ExactMatch
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.prompt_embeds import export_prompt_embeds
from gradmem_core.reading.cache import prefill
from service.app import create_app
from service.cli import app as service_cli
from service.client import Client, InvalidRequest, NotFound
from service.settings import Settings
from tests.benchmarks.commands import measure_rows
from tests.pretrained import TEXT, model_folder, text_folder, tokenizer, write_gguf
from tests.service.conftest import running
from training.cli import app as training_cli

DOCUMENT = "The tower was built in 1889."
SMALL = (
    *("--set", "budget_tokens=60", "--set", "threads=1", "--set", "curriculum.stages=[{size=5}]"),
    *("--set", "batch.contexts=2", "--set", "batch.micro_batch=2", "--set", "evaluation.sizes=[5]"),
)


def run(*arguments: str | Path) -> str:
    """Run `gradmem-train` and return its output."""
    result = CliRunner().invoke(training_cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def init_checkpoint(tmp_path: Path, *options: str) -> Path:
    folder = model_folder(tmp_path / "model", "llama")
    limits = ("max_context_tokens=60", "max_query_tokens=40", "max_answer_tokens=9")
    run(
        *("init", "--backbone", folder, "--output", tmp_path / "start", "--set", "memory_tokens=4"),
        *(word for limit in limits for word in ("--set", limit)),
        *options,
    )
    return tmp_path / "start"


def make_settings(tmp_path: Path, checkpoint: Path) -> Settings:
    return Settings(
        checkpoints=[str(checkpoint)], store_url=f"sqlite:///{tmp_path}/m.db", threads=1
    )


def decode_answer(checkpoint: Checkpoint, tokens: list[int]) -> str:
    """Return the text of generated tokens up to the first that ends an answer."""
    stop = checkpoint.stop_ids[0]
    end = tokens.index(stop) if stop in tokens else len(tokens)
    return checkpoint.tokenizer.decode(tokens[:end]).strip()


def load_as_vllm(encoded: str) -> torch.Tensor:
    """Load prompt embeddings as vLLM's server does."""
    data = io.BytesIO(base64.b64decode(encoded, validate=True))
    tensor: torch.Tensor = torch.load(data, weights_only=True, map_location="cpu")
    assert tensor.dim() == 2
    return tensor


def test_a_folder_is_initialised_trained_and_served(tmp_path: Path) -> None:
    start = init_checkpoint(tmp_path, "--set", "adapter.rank=2")
    data = text_folder(tmp_path / "data")
    paths = ("--set", f"start={start}", "--set", f"data={data}")
    run("fit", "text", *paths, *SMALL, "--output", tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint"
    app = create_app(make_settings(tmp_path, checkpoint))
    with running(app) as url, Client(url) as client:
        memory = client.write(DOCUMENT, steps=3)
        assert memory.info.losses[-1] < memory.info.losses[0]
        answer = memory.ask("Text:")
        assert answer.answer == (answer.answer or "").strip()
        with pytest.raises(InvalidRequest, match="query is empty"):
            memory.ask("")
        with pytest.raises(InvalidRequest, match="at most 40"):
            memory.ask("quite " * 40)
    options = ("--data", data, "--sizes", 5, "--contexts", 4, "--queries", 1)
    [row] = measure_rows(ExactMatch, "exact-match", checkpoint, *options)
    assert (row.task, row.size, row.contexts) == ("text", 5, 4)


def test_another_engine_answers_from_an_exported_memory_alike(tmp_path: Path) -> None:
    start = init_checkpoint(tmp_path)
    with running(create_app(make_settings(tmp_path, start))) as url, Client(url) as client:
        memory_id = client.write(DOCUMENT).memory_id
        file = tmp_path / "memory.safetensors"
        arguments = ["export", memory_id, str(file), "--prompt-embeds", "--url", url]
        assert CliRunner().invoke(service_cli, arguments).exit_code == 0
        answer = client.memory(memory_id).ask("Text:", max_new_tokens=9)
        page = client.memory(memory_id).describe().pages[0].page_id
        assert client.memory(memory_id).prompt_embeds(page) == file.read_bytes()
        with pytest.raises(NotFound):
            client.memory(memory_id).prompt_embeds("0" * 16)
        with pytest.raises(NotFound):
            client.memory("mem_nothing").prompt_embeds()
    assert file.stat().st_mode & 0o077 == 0
    (name,) = tensors = load(file.read_bytes())
    assert name == "prompt_embeds"
    embeds = tensors[name]
    assert embeds.shape == (4, 16)
    checkpoint = load_checkpoint(start)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    query = checkpoint.tokenizer.encode_query("Text:", checkpoint.task.query_template)
    query_embeds = model.get_input_embeddings()(torch.tensor(query))
    inputs = torch.cat([embeds, query_embeds])[None]
    tokens = model.generate(  # type: ignore[misc]
        inputs_embeds=inputs, max_new_tokens=9, do_sample=False
    )[0].tolist()
    assert decode_answer(checkpoint, tokens) == answer.answer


@pytest.mark.parametrize("template", ["\nQuestion: {query}\nAnswer:", "chat"])
def test_what_vllm_takes_is_the_prompt_that_read_answers(tmp_path: Path, template: str) -> None:
    start = init_checkpoint(tmp_path, "--query-template", template)
    file = tmp_path / "prompt.json"
    with running(create_app(make_settings(tmp_path, start))) as url, Client(url) as client:
        memory_id = client.write(DOCUMENT).memory_id
        arguments = ["export", memory_id, str(file), "--prompt-embeds", "--url", url]
        options = ["--query", "When was it built?", "--form", "completions"]
        assert CliRunner().invoke(service_cli, [*arguments, *options]).exit_code == 0
        answer = client.memory(memory_id).ask("When was it built?", max_new_tokens=9)
        part = json.loads(client.memory(memory_id).prompt_embeds(form="chat"))
        with pytest.raises(InvalidRequest, match="query is empty"):
            client.memory(memory_id).prompt_embeds(query=" ", form="completions")
    ((name, encoded),) = json.loads(file.read_bytes()).items()
    assert name == "prompt_embeds"
    prompt = load_as_vllm(encoded)
    checkpoint = load_checkpoint(start)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokens = model.generate(  # type: ignore[misc]
        inputs_embeds=prompt[None], max_new_tokens=9, do_sample=False
    )[0]
    assert decode_answer(checkpoint, tokens.tolist()) == answer.answer
    assert (part["type"], set(part)) == ("prompt_embeds", {"type", "data"})
    torch.testing.assert_close(load_as_vllm(part["data"]), prompt[:4], rtol=0, atol=0)
    assert len(prompt) == 4 + answer.query_tokens


def test_an_exported_page_is_without_the_others(tmp_path: Path) -> None:
    model = load_checkpoint(init_checkpoint(tmp_path, "--set", "memory_projection=false")).model
    pages = torch.randn(3, 4, 16)
    exported = json.loads(export_prompt_embeds(model, pages[1], form="chat"))["data"]
    embeds = load_as_vllm(exported)
    torch.testing.assert_close(embeds, pages[1], rtol=0, atol=0)
    assert embeds.untyped_storage().nbytes() == embeds.nbytes


def test_an_exported_memory_has_the_projection_applied(tmp_path: Path) -> None:
    model = load_checkpoint(init_checkpoint(tmp_path)).model
    assert model.memory_projection is not None
    torch.nn.init.normal_(model.memory_projection.weight)
    memory = torch.randn(4, 16)
    embeds = load(export_prompt_embeds(model, memory, form="safetensors"))["prompt_embeds"]
    assert not torch.allclose(embeds, memory)
    cache = model.backbone.new_cache()
    model.backbone.hidden(embeds[None], cache=cache)
    (prefix,) = prefill(model, memory[None])
    for (keys, _), (ours, _) in zip(prefix.layers, model.backbone.unpack_cache(cache), strict=True):
        torch.testing.assert_close(keys, ours[0])


def test_a_gguf_file_becomes_the_same_model(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    write_gguf(tmp_path / "tiny.gguf", model)
    run("import-gguf", tmp_path / "tiny.gguf", tmp_path / "imported")
    imported = AutoModelForCausalLM.from_pretrained(tmp_path / "imported")
    assert not hasattr(imported.config, "quantization_config")
    ids = torch.arange(30)[None]
    torch.testing.assert_close(imported(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    run(
        *("init", "--backbone", tmp_path / "imported", "--output", tmp_path / "start"),
        *("--set", "max_context_tokens=40", "--set", "max_query_tokens=40"),
    )
    checkpoint = load_checkpoint(tmp_path / "start")
    assert checkpoint.tokenizer.encode(TEXT) == tokenizer().encode(TEXT)


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF nothing")
    for name in ("x.gguf", "y.gguf"):
        arguments = ["import-gguf", str(tmp_path / name), str(tmp_path / "out")]
        result = CliRunner().invoke(training_cli, arguments)
        assert result.exit_code == 2
        assert "cannot be read" in result.output
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--set", "memory_tokens=0"], "memory_tokens: "),
        (["--set", "memory_token=8"], "memory_token: "),
        (["--task", "kv"], "is not one of babi"),
        (["--layers", "9"], "3"),
        (["--set", "max_context_tokens=400"], "160"),
        (["--query-template", "nothing"], "{query}"),
    ],
)
def test_init_refuses_invalid_options(tmp_path: Path, options: list[str], problem: str) -> None:
    folder = model_folder(tmp_path / "model", "llama")
    arguments = ["init", "--backbone", str(folder), "--output", str(tmp_path / "start")]
    limits = ["--set", "max_context_tokens=40", "--set", "max_query_tokens=40"]
    result = CliRunner().invoke(training_cli, [*arguments, *limits, *options])
    assert result.exit_code == 2
    assert problem in result.output
    assert not (tmp_path / "start").exists()
