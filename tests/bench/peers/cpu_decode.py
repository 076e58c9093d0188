"""Greedy decoding of one sequence by CTranslate2 or llama.cpp: convert a `transformers` folder once, then time it.

    python cpu_decode.py --step convert --peer llama.cpp --kind Q4_0 --model HF --place PLACE --output answer.json
    python cpu_decode.py --step time --peer llama.cpp --kind Q4_0 --model HF --place PLACE --output answer.json

llama.cpp reads GGUF, which is written here for GPT-2 with its matrices quantised and a vocabulary of stand-ins: its
server, which xllamacpp runs in the same process, takes token ids and answers with text.
"""

import argparse
import importlib.metadata
import json
import time
from pathlib import Path

PACKAGES = {"ctranslate2": "ctranslate2", "llama.cpp": "xllamacpp"}

RENAMED = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
"""Parts of a block of GPT-2, as `transformers` and as GGUF names them."""


def gguf_name(name):
    """The name of one of GPT-2's parameters in GGUF."""
    fixed = {"wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight"}
    name = name.removeprefix("transformer.")
    if name in fixed:
        return fixed[name]
    if name.startswith("ln_f"):
        return name.replace("ln_f", "output_norm")
    _, block, rest = name.split(".", 2)
    part, end = rest.rsplit(".", 1)
    return f"blk.{block}.{RENAMED[part]}.{end}"


def write_gguf(folder, path, kind):
    """GPT-2: linears, (out, in), as `kind` says; token embeddings, which are the head too, Q8_0; the rest float32."""
    import gguf
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    add_vocabulary(writer, config)
    for name, parameter in model.named_parameters():
        value = parameter.detach().float()
        turned = value.dim() == 2 and ".c_" in name
        values = (value.T if turned else value).contiguous().numpy()
        form = gguf.GGMLQuantizationType[kind if turned else "Q8_0" if "wte" in name else "F32"]
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer, config):
    """A word for every id; GGUF lets no list be empty, so there is one merge, which no text is read with."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{number}" for number in range(config.vocab_size)])
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(config.eos_token_id)


def convert(arguments):
    """Write the peer's own form of the model to `place`."""
    if arguments.peer == "ctranslate2":
        from ctranslate2.converters import TransformersConverter

        target = arguments.place / arguments.kind
        TransformersConverter(str(arguments.model)).convert(str(target), quantization=arguments.kind)
        return {"bytes": sum(path.stat().st_size for path in target.iterdir())}
    target = arguments.place / f"{arguments.kind}.gguf"
    write_gguf(arguments.model, target, arguments.kind)
    return {"bytes": target.stat().st_size}


def decoder(arguments, ids):
    """A call that generates `tokens` tokens after `ids`."""
    if arguments.peer == "ctranslate2":
        import ctranslate2
        from transformers import AutoTokenizer

        words = AutoTokenizer.from_pretrained(arguments.model).convert_ids_to_tokens(ids)
        place = str(arguments.place / arguments.kind)
        generator = ctranslate2.Generator(place, device="cpu", intra_threads=arguments.threads)
        options = {"max_length": arguments.tokens, "min_length": arguments.tokens, "include_prompt_in_result": False}

        def generate():
            (found,) = generator.generate_batch([words], **options)
            return len(found.sequences_ids[0])

        return generate
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(arguments.place / f"{arguments.kind}.gguf")
    parameters.n_ctx = len(ids) + arguments.tokens
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = arguments.threads
    parameters.cache_ram_mib = 0
    server = xllamacpp.Server(parameters)
    options = {"ignore_eos": True, "cache_prompt": False, "temperature": 0, "top_k": 1}

    def decode():
        answer = server.handle_completions({"prompt": ids, "max_tokens": arguments.tokens, **options})
        timings = answer["timings"]
        if timings["prompt_n"] != len(ids):
            raise RuntimeError(f"llama.cpp read {timings['prompt_n']} tokens of a prompt of {len(ids)}")
        return timings["predicted_n"]

    return decode


def main():
    """Convert, or time one call after a warm-up."""
    options = argparse.ArgumentParser()
    options.add_argument("--step", choices=("convert", "time"), required=True)
    options.add_argument("--peer", choices=sorted(PACKAGES), required=True)
    options.add_argument("--kind", required=True, help="int8, Q8_0, Q4_0, ...")
    for name in ("model", "place", "output"):
        options.add_argument(f"--{name}", type=Path, required=True)
    options.add_argument("--ids", type=int, nargs="*", default=[])
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    if arguments.step == "convert":
        answer = convert(arguments)
    else:
        call = decoder(arguments, arguments.ids)
        call()
        began, cpu = time.perf_counter(), time.process_time()
        count = call()
        answer = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu, "tokens": count}
    version = importlib.metadata.version(PACKAGES[arguments.peer])
    arguments.output.write_text(json.dumps(answer | {"version": version}))


if __name__ == "__main__":
    main()
