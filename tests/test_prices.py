"""What is known of models: prices by endpoint, exact costs, licences by name.  .venv/bin/python -m pytest tests/test_prices.py"""

from decimal import Decimal

import pytest

from datagen import prices
from datagen.files import UserError


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ("meta-llama/Llama-3.1-405B-Instruct", "Llama 3.1 Community License"),
        ("meta-llama/Meta-Llama-3.1-405B-Instruct-Turbo", "Llama 3.1 Community License"),
        ("accounts/fireworks/models/llama-v3p1-405b-instruct", "Llama 3.1 Community License"),
        ("llama3.1:70b", "Llama 3.1 Community License"),
        ("meta-llama/Meta-Llama-3-70B-Instruct", "Meta Llama 3 Community License (Llama 3.0)"),
        ("llama3-70b-8192", "Meta Llama 3 Community License (Llama 3.0)"),
        ("accounts/fireworks/models/llama-v3-70b-instruct", "Meta Llama 3 Community License (Llama 3.0)"),
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "Llama 3.3 Community License"),
        ("gpt-4o", "OpenAI terms of use"),
        ("openai/gpt-4.1-mini", "OpenAI terms of use"),
        ("openai/gpt-oss-120b", "Apache License 2.0"),
        ("Qwen/Qwen2.5-72B-Instruct", "Qwen License Agreement (Qwen2.5 72B)"),
        ("Qwen/Qwen2.5-7B-Instruct", "Apache License 2.0"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", "Apache License 2.0"),
        ("mistralai/Mistral-Large-Instruct-2411", "Mistral AI Research License (Mistral Large 2)"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "Apache License 2.0"),
        ("deepseek-ai/DeepSeek-V3", "DeepSeek License Agreement 1.0 (DeepSeek-V3 of December 2024)"),
        ("deepseek-ai/DeepSeek-V3-0324", "MIT License"),
        ("deepseek-v4-flash", "MIT License"),
        ("google/gemma-3-27b-it", "Gemma Terms of Use (Gemma 1 to 3)"),
        ("google/gemma-4-31B-it", "Apache License 2.0"),
    ],
)
def test_a_name_as_hosts_spell_it_has_exactly_one_licence(model, licence):
    assert [known.name for known in prices.facts().licences if prices.fits(model, known.models)] == [licence] == [prices.licence(model).name]


@pytest.mark.parametrize("model", ["tiny-base-5bc6218e", "qwen3-max", "Qwen/Qwen2.5-3B-Instruct", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "my-gpt-4o"])
def test_the_licence_of_an_unknown_model_is_not_guessed(model):
    assert prices.licence(model) is None


def test_llama_3_forbids_what_llama_3_1_allows():
    assert [prices.licence(f"meta-llama/{name}").strictness for name in ("Meta-Llama-3-70B-Instruct", "Llama-3.1-405B-Instruct")] == [4, 2]


def test_every_price_names_its_source_and_a_day_before_this_file_was_written():
    for offer in prices.facts().prices:
        assert offer.source.startswith("https://") and "2025-01-01" < str(offer.date) <= "2026-11-21", offer


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://api.deepinfra.com/v1/openai", ("0.10", "0.32")),
        ("https://api.together.xyz/v1", ("0.88", "0.88")),
        ("https://API.TOGETHER.XYZ:443/v1", ("0.88", "0.88")),
    ],
)
def test_the_price_is_that_of_the_host(url, found):
    price = prices.price("meta-llama/Llama-3.3-70B-Instruct-Turbo", url)
    assert (price.input, price.output) == tuple(map(Decimal, found))


def test_a_known_model_at_an_unknown_host_has_no_price():
    assert prices.price("gpt-4o", "https://gateway.example.com/v1") is None


def test_without_a_host_the_dearest_provider_counts():
    assert prices.price("meta-llama/llama-3.3-70b-instruct").output == Decimal("0.40")  # Nebius; 0.4 at Novita, 0.32 at OpenRouter


def test_a_source_says_provider_day_and_address():
    price = prices.price("llama-3.1-8b-instant", "https://api.groq.com/openai/v1")
    assert price.source.startswith("Groq, 2026-06-10, https://github.com/") and str(price.date) == "2026-06-10"


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:80", "10.1.2.3", "192.168.0.9:1", "100.64.0.7", "vllm-0:8000", "gpu.local", "a.b.internal"])
def test_a_local_server_costs_nothing_and_says_so(host):
    assert prices.price("gpt-4o", f"http://{host}/v1") == (0, 0, "local server, no price", None)


@pytest.mark.parametrize("host", ["8.8.8.8", "api.openai.com", "localhost.example.com"])
def test_a_public_address_is_not_local(host):
    assert not prices.is_local(host)


def test_own_prices_win_an_exact_name_before_a_glob():
    own = {"gpt-*": {"input": "1", "output": "2"}, "GPT-4o": prices.OwnPrice(input="0.3", output="0.4")}
    assert prices.price("gpt-4o", "https://api.openai.com/v1", own)[:2] == (Decimal("0.3"), Decimal("0.4"))
    assert prices.price("gpt-5", "http://localhost/v1", own)[:3] == (1, 2, "own price, datagen/config.yaml")
    assert prices.price("llama-3.1-8b-instant", "https://api.groq.com/openai/v1", own).output == Decimal("0.08")


def test_all_faults_of_own_prices_are_named_and_floats_refused():
    with pytest.raises(UserError) as caught:
        prices.price("m", "", {"m": {"input": 0.88, "output": "-1", "cached": "0"}})
    assert str(caught.value) == (
        'datagen/config.yaml, prices: m.input: expected US dollars per million tokens in quotes, such as "0.88", got 0.88; '
        "m.output: expected US dollars per million tokens in quotes, such as \"0.88\", got '-1'; unknown key m.cached"
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    strictness: 4", "    strictnes: 4", "licences.0.strictness: Field required"),
        ("    strictness: 4", "    strictnes: 4", "unknown key licences.0.strictnes"),
        ('input: "0.80"', "input: 0.80", "prices.0.input: expected US dollars per million tokens in quotes"),
        ("  DeepInfra: [api.deepinfra.com]\n", "", "no hosts are given for DeepInfra"),
    ],
)
def test_a_fault_in_the_file_of_facts_is_named(tmp_path, old, new, words):
    text = prices.PATH.read_text()
    assert old in text
    (tmp_path / "models.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=r"models\.yaml: ") as caught:
        prices.facts(tmp_path / "models.yaml")
    assert words in str(caught.value)


def test_a_cost_is_exact():
    price = prices.Price(Decimal("0.1"), Decimal("0.135"), "")
    assert prices.cost(price, 1, 0) == Decimal("0.0000001")
    assert prices.cost(price, 123_456_789_012, 3) == Decimal("12345.678901605")


def test_a_batch_costs_half():
    price = prices.Price(Decimal("2.50"), Decimal("10.00"), "")
    assert (prices.cost(price, 1_000_000, 100_000), prices.cost(price, 1_000_000, 100_000, batch=True)) == (Decimal("3.5"), Decimal("1.75"))
