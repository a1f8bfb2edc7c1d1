package relay_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// floodTime is how long honest ones are measured, alone and under attack.
const floodTime = 4 * time.Second

// BenchmarkFlood has strangers at one address do their worst on loopback, beside 16
// honest senders and 16 receivers at addresses of their own. The relay has the policy
// that operators get. Relay, strangers and honest ones have a process each. It reports
// which part of the rate without strangers is left to the honest ones, in the same run: of
// PUTs and of mail that is received. It also reports the 99th percentile of a PUT, and of
// the way from the begin of a PUT to the receiver, against those without strangers, how many
// honest requests were refused, and by how many MB the relay grew. All share the processors,
// so a busy machine changes these rates. It changes "cores" less: how many processors of the
// relay the attack takes, besides those that honest transactions take without it. "attempts"
// is how many requests or connections the strangers try in a second, and "theirs" how many
// processors they take. In "nothing" nobody attacks.
func BenchmarkFlood(b *testing.B) {
	for _, attack := range attacks {
		b.Run(attack.name, func(b *testing.B) {
			var alone, under honestRates
			var grown, attempts, theirs float64
			for range b.N {
				f := newBesieged(b, attack.name)
				alone.add(f.honest(1))
				before := memoryOf(b, f.server)
				f.attack()
				began, used := time.Now(), processorTime(b, f.attacker)
				time.Sleep(floodTime / 4)
				under.add(f.honest(2))
				grown = max(grown, memoryOf(b, f.server)-before)
				theirs += (processorTime(b, f.attacker) - used) / time.Since(began).Seconds()
				attempts += f.stop()
			}
			b.ReportMetric(under.puts/alone.puts, "puts")
			b.ReportMetric(under.got/alone.got, "fetches")
			b.ReportMetric(under.p99/alone.p99, "p99")
			b.ReportMetric(under.late/alone.late, "p99late")
			b.ReportMetric((under.cpu-alone.cpu/alone.puts*under.puts)/float64(b.N), "cores")
			b.ReportMetric(under.refused, "refused")
			b.ReportMetric(grown, "MB")
			b.ReportMetric(attempts/float64(b.N), "attempts")
			b.ReportMetric(theirs/float64(b.N), "theirs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// A besieged relay is another process, and so are its attackers.
type besieged struct {
	testing.TB
	address          string
	server, attacker *exec.Cmd
	input            io.Closer
	orders           io.WriteCloser
	said             *bufio.Reader // by the attacker
	began            time.Time
}

func newBesieged(b *testing.B, attack string) *besieged {
	f := &besieged{TB: b}
	f.server, f.input, f.address = startServer(b, "flood")
	f.attacker = exec.Command(os.Args[0])
	f.attacker.Env = append(os.Environ(), benchAttack+"="+attack, benchTarget+"="+f.address)
	f.attacker.Stderr = os.Stderr
	var err error
	f.orders, err = f.attacker.StdinPipe()
	require.NoError(b, err)
	output, err := f.attacker.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, f.attacker.Start())
	f.said = bufio.NewReader(output)
	require.Equal(b, "ready", f.heard())
	return f
}

func (f *besieged) heard() string {
	line, err := f.said.ReadString('\n')
	require.NoError(f, err)
	return strings.TrimSuffix(line, "\n")
}

// attack has the attackers begin.
func (f *besieged) attack() {
	_, err := io.WriteString(f.orders, "attack\n")
	require.NoError(f, err)
	f.began = time.Now()
}

// stop ends both processes. It returns how often in a second the attackers tried something.
func (f *besieged) stop() (attempts float64) {
	require.NoError(f, f.orders.Close())
	took := time.Since(f.began).Seconds()
	count, err := strconv.Atoi(f.heard())
	require.NoError(f, err)
	require.NoError(f, f.attacker.Wait())
	require.NoError(f, f.input.Close())
	require.NoError(f, f.server.Wait())
	return float64(count) / took
}

var residentSet = regexp.MustCompile(`VmRSS:\s*(\d+) kB`)

// memoryOf is how many MB a process has; 0 where nobody can tell.
func memoryOf(t testing.TB, process *exec.Cmd) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", process.Process.Pid))
	if err != nil {
		return 0
	}
	found := residentSet.FindSubmatch(status)
	require.NotNil(t, found)
	kilobytes, err := strconv.Atoi(string(found[1]))
	require.NoError(t, err)
	return float64(kilobytes) / 1024
}

// processorTime is how many seconds a process has used; 0 where nobody can tell.
func processorTime(t testing.TB, process *exec.Cmd) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process.Process.Pid))
	if err != nil {
		return 0
	}
	_, numbers, _ := strings.Cut(string(status), ") ")
	fields := strings.Fields(numbers)
	require.Greater(t, len(fields), 12)
	user, err := strconv.Atoi(fields[11])
	require.NoError(t, err)
	system, err := strconv.Atoi(fields[12])
	require.NoError(t, err)
	return float64(user+system) / 100 // Linux counts hundredths
}
