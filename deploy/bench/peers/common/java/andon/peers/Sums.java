package andon.peers;

import java.nio.ByteBuffer;

/** The eight sums of a key and window. */
public final class Sums {
  private static final int BYTES = 8 * Long.BYTES;

  public long events;
  public long offered;
  public long answered;
  public long inTime;
  public long wait;
  public long talk;
  public long hold;
  public long after;

  public Sums() {}

  public Sums add(Sums other) {
    events += other.events;
    offered += other.offered;
    answered += other.answered;
    inTime += other.inTime;
    wait += other.wait;
    talk += other.talk;
    hold += other.hold;
    after += other.after;
    return this;
  }

  public byte[] toBytes() {
    return ByteBuffer.allocate(BYTES)
        .putLong(events)
        .putLong(offered)
        .putLong(answered)
        .putLong(inTime)
        .putLong(wait)
        .putLong(talk)
        .putLong(hold)
        .putLong(after)
        .array();
  }

  public static Sums of(byte[] bytes) {
    ByteBuffer buffer = ByteBuffer.wrap(bytes);
    Sums sums = new Sums();
    sums.events = buffer.getLong();
    sums.offered = buffer.getLong();
    sums.answered = buffer.getLong();
    sums.inTime = buffer.getLong();
    sums.wait = buffer.getLong();
    sums.talk = buffer.getLong();
    sums.hold = buffer.getLong();
    sums.after = buffer.getLong();
    return sums;
  }

  /** As it is sent: an array of JSON. */
  @Override
  public String toString() {
    return "[" + events + "," + offered + "," + answered + "," + inTime + "," + wait + "," + talk
        + "," + hold + "," + after + "]";
  }
}
