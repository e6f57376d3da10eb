//! What of a configuration may change while the broker runs, and what waits for a restart.

use std::collections::BTreeMap;

use super::{Config, ConfigError, LimitsConfig, Settings};

/// A configuration that was read again, beside the one in force.
#[derive(Debug)]
pub struct Reload {
    /// What is in force then: of the limits, of admission's pace, of memory and of decision support what was read, all else as it
    /// was.
    pub config: Config,
    /// The same, checked.
    pub settings: Settings,
    /// Keys whose values change.
    pub changed: Vec<String>,
    /// Keys whose values are others in the file, and stay as they are until a restart.
    pub waiting: Vec<String>,
}

impl Config {
    /// What comes of reading the configuration again, while this one is in force.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if anything in it is wrong, whether it would change or not; [`ConfigError::AtOdds`] if what
    /// would change does not go with what stays as it is.
    pub fn reload(&self, read: &Self) -> Result<Reload, ConfigError> {
        read.check()?;
        let config = Self {
            limits: LimitsConfig {
                // The size of a table that is made at the start.
                connections_per_shard_max: self.limits.connections_per_shard_max,
                ..read.limits.clone()
            },
            admission: self.admission.reload(&read.admission),
            memory: read.memory.clone(),
            provisioning: read.provisioning.clone(),
            ..self.clone()
        };
        let settings = config.check().map_err(|error| match error {
            ConfigError::Invalid(problems) => ConfigError::AtOdds(problems),
            error @ (ConfigError::Read { .. }
            | ConfigError::Syntax(_)
            | ConfigError::UnknownKey { .. }
            | ConfigError::AtOdds(_)) => error,
        })?;
        Ok(Reload { changed: differences(self, &config), waiting: differences(&config, read), config, settings })
    }
}

/// Keys whose values are not the same, with dots.
fn differences(one: &Config, other: &Config) -> Vec<String> {
    let (one, mut others) = (values(one), values(other));
    let mut keys: Vec<String> = one
        .into_iter()
        .filter_map(|(key, value)| (others.remove(&key).as_ref() != Some(&value)).then_some(key))
        .collect();
    keys.extend(others.into_keys());
    keys
}

/// All values by their keys; a list is one value.
fn values(config: &Config) -> BTreeMap<String, toml::Value> {
    let mut values = BTreeMap::new();
    let mut tables = vec![(String::new(), toml::Value::try_from(config).ok())];
    while let Some((prefix, value)) = tables.pop() {
        match value {
            Some(toml::Value::Table(table)) => {
                let path = |key: String| if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                tables.extend(table.into_iter().map(|(key, value)| (path(key), Some(value))));
            }
            Some(value) => _ = values.insert(prefix, value),
            None => {}
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> Config {
        toml.parse().expect(toml)
    }

    #[test]
    fn limits_change_and_what_is_made_at_the_start_waits() {
        let running = config("[limits]\nroster_items_max = 5");
        let read = config(
            "shards = 1\n[limits]\nroster_items_max = 6\nconnections_per_shard_max = 99\n\
             [limits.before_auth]\ndepth_max = 9\n[memory]\nwatermarks = [50, 60, 70]\n[provisioning]\npage_max = 7\n[things]\npage_max = 8\n\
             [admission]\nbinds_per_shard_per_second = 9\nconnections_per_source_burst = 9\n\
             [[listeners]]\naddress = '127.0.0.1:1'",
        );
        let reload = running.reload(&read).unwrap();
        assert_eq!(
            reload.changed,
            [
                "admission.binds_per_shard_per_second",
                "limits.before_auth.depth_max",
                "limits.roster_items_max",
                "memory.watermarks",
                "provisioning.page_max"
            ]
        );
        assert_eq!(
            reload.waiting,
            [
                "admission.connections_per_source_burst",
                "limits.connections_per_shard_max",
                "listeners",
                "shards",
                "things.page_max"
            ]
        );
        assert_eq!(reload.settings.newcomers.binds, 9);
        assert_eq!((reload.settings.limits.roster_items_max, reload.settings.provisioning.page_max), (6, 7));
        assert_eq!(reload.settings.limits.connections_per_shard_max, 16_384);
        assert_eq!((reload.settings.listeners.len(), reload.settings.things.page_max), (2, 100));
        // What waits is told again as long as it does.
        let again = reload.config.reload(&read).unwrap();
        assert!(again.changed.is_empty());
        assert_eq!(again.waiting, reload.waiting);
    }

    #[test]
    fn nothing_changes_if_anything_is_wrong_or_at_odds_with_what_stays() {
        let running = config("[archive]\nmodes = ['always']\npage_max = 400");
        let wrong = config("[limits]\nroster_items_max = 6\n[store]\nreaders = 0");
        let error = running.reload(&wrong).unwrap_err().to_string();
        assert_eq!(error, "store.readers = 0: must be between 1 and 64");
        let at_odds = config("[archive]\nmodes = ['always']\npage_max = 20\n[limits]\nunacknowledged_stanzas_max = 30");
        let error = running.reload(&at_odds).unwrap_err();
        assert!(matches!(error, ConfigError::AtOdds(_)));
        let error = error.to_string();
        assert!(error.contains("archive.page_max = 400") && error.contains("until a restart"), "{error}");
    }
}
