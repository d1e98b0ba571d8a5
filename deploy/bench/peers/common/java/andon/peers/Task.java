package andon.peers;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;

/** What the peers in Java are asked for, and the marks that they leave on standard output. */
public final class Task {
  public static final long WINDOW_MS = 60_000;
  public static final long GRACE_MS = 3_600_000;
  public static final long EMIT_MS = 500;

  public static final String BROKERS = System.getenv("PEER_BROKERS");
  public static final String TOPIC = System.getenv("PEER_TOPIC");
  public static final String OUTPUT = System.getenv("PEER_OUTPUT");
  public static final String ID = System.getenv("PEER_ID");
  public static final String STATE_DIR = System.getenv("PEER_STATE_DIR");

  /** How many sums the events of the topic change: an event counts in several. */
  private static final long UPDATES = Long.parseLong(System.getenv("PEER_UPDATES"));

  private static final AtomicBoolean BEGUN = new AtomicBoolean();
  private static final AtomicLong FOLDED = new AtomicLong();

  private Task() {}

  /** The text of the contract. */
  public static String schema() throws IOException {
    return Files.readString(Path.of(System.getenv("PEER_SCHEMA")));
  }

  /** Says that an event was read; only the first is told. */
  public static void read() {
    if (!BEGUN.get() && BEGUN.compareAndSet(false, true)) {
      tell("first", "\"versions\": \"" + System.getProperty("andon.peer.versions", "") + "\"");
    }
  }

  /** Counts a changed sum, and returns whether it was the last, which is told. */
  public static boolean folded() {
    long updates = FOLDED.incrementAndGet();
    if (updates == UPDATES) {
      tell("last", "\"updates\": " + updates);
    }
    return updates == UPDATES;
  }

  private static void tell(String mark, String more) {
    double now = System.currentTimeMillis() / 1000.0;
    String line = String.format(Locale.ROOT, "{\"mark\": \"%s\", \"at_s\": %.3f, %s}", mark, now, more);
    System.out.println(line);
    System.out.flush();
  }
}
