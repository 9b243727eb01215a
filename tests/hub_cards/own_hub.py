"""Makes this process and its children take a stand-in for the real Hub."""

from pathlib import Path

from hub_standin import HubStandIn


def use_hub(standin: HubStandIn, monkeypatch, home: Path) -> None:
    """Take `standin` for the Hub, and its token for this user's."""
    for name, value in standin.environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    constants = {"ENDPOINT": standin.endpoint, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
    # Made of the endpoint when it is imported.
    constants["HUGGINGFACE_CO_URL_TEMPLATE"] = standin.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    constants |= {"HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN_PATH": str(home / "token")}
    # Made once for a process otherwise, of the Hub that was its first.
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)
    for name, value in constants.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
