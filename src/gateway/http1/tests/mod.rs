mod body;
mod head;
mod random;
mod response;
