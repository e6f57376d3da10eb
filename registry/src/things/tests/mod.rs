mod claims;
mod life;
mod operate;
mod registry;
mod search;
