// The text of the reply that is being written, put together from what the stream brings.

/** A text that only grows; places in it count code points, as the server does. */
export class GrowingText {
  id = null;
  text = '';
  length = 0;

  /** Begin with what is known of a message; without one there is nothing that grows. */
  begin(id = null, text = '') {
    this.id = id;
    this.text = text;
    this.length = [...text].length;
  }

  /** Begin with a text of a message unless more of it is known already; returns all that is known. */
  atLeast(id, text) {
    if (this.id !== id || this.text.length < text.length) this.begin(id, text);
    return this.text;
  }

  /** Add the piece of a message that ends at a place; tells whether what comes before it is known. */
  add(id, piece, end) {
    if (this.id !== id) this.begin(id);
    const points = [...piece];
    const known = this.length - (end - points.length);
    if (known < 0) return false;
    this.text += known ? points.slice(known).join('') : piece;
    this.length = Math.max(this.length, end);
    return true;
  }
}
