"""Typed, frozen, strict configuration: one YAML file, then overrides, all errors at once."""

from privfed_dpo.config.data_sections import DataConfig, SyntheticConfig
from privfed_dpo.config.deployment import DeploymentConfig
from privfed_dpo.config.federation import FederationConfig
from privfed_dpo.config.gossip import GossipConfig
from privfed_dpo.config.loading import dump_config, load_config, parse_config
from privfed_dpo.config.mappings import as_sections, flat_settings, plain_settings
from privfed_dpo.config.model_sections import AdapterConfig, DpoConfig, ModelConfig
from privfed_dpo.config.personal import PersonalConfig
from privfed_dpo.config.sections import (
    Config,
    EvaluationConfig,
    PrivacyConfig,
    RunConfig,
    SecureAggConfig,
)

__all__ = [
    "AdapterConfig",
    "Config",
    "DataConfig",
    "DeploymentConfig",
    "DpoConfig",
    "EvaluationConfig",
    "FederationConfig",
    "GossipConfig",
    "ModelConfig",
    "PersonalConfig",
    "PrivacyConfig",
    "RunConfig",
    "SecureAggConfig",
    "SyntheticConfig",
    "as_sections",
    "dump_config",
    "flat_settings",
    "load_config",
    "parse_config",
    "plain_settings",
]
