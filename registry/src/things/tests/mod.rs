mod claims;
mod life;
mod registry;
mod search;
