package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/store"
)

const backupHelp = `Copy the database of a relay into a FILE that isn't there yet. The relay goes on meanwhile,
a little slower. The copy is of one moment, and has all mail that was stored before; only
you may read it (if you are root, the owner of its folder). The relay makes it beside its
database first, where there must be room for it, and then hands it out. relay restore brings it
back. Databases other than SQLite have tools of their own.

  relay backup /var/backups/relay/relay.db --db /var/lib/relay/relay.db`

func newBackup() *cobra.Command {
	return new(operating).command(&cobra.Command{Use: "backup FILE", Short: "Copy the database", Long: backupHelp, Args: oneArg("the FILE to write")},
		func(ctx context.Context, c *cobra.Command, operator admin.Operator, args []string) error {
			return backUp(ctx, c, operator, args[0])
		})
}

// partSuffix is that of a backup that isn't whole yet.
const partSuffix = "-part"

func backUp(ctx context.Context, c *cobra.Command, operator admin.Operator, file string) (err error) {
	if _, err := os.Stat(filepath.Dir(file)); err != nil { // before the relay does all the work
		return err
	}
	if err := checkNew(file); err != nil {
		return err
	}
	bar := newProgress(c.ErrOrStderr())
	defer bar.end()
	copied, err := relayCopies(ctx, c, operator, bar)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, copied.Close()) }()
	part := file + partSuffix
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a crash
		return err
	}
	if err := writePart(part, copied, bar); err != nil {
		return err
	}
	if err := keepPart(part, file); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	if err := operator.BackedUp(ctx, copied.Began); err != nil {
		return fmt.Errorf("%s is whole, and the relay wasn't told: %w", file, err)
	}
	bar.end()
	return show(c, fmt.Sprintf("%s has %s, as of %s", file, bytesText(copied.Size), copied.Began.Local().Format(time.DateTime)),
		map[string]any{"file": file, "bytes": copied.Size, "began": copied.Began})
}

// relayCopies has the relay make its copy, and says meanwhile that it does: on a terminal for how
// long, else once.
func relayCopies(ctx context.Context, c *cobra.Command, operator admin.Operator, bar *progress) (*admin.Copy, error) {
	status, err := operator.Status(ctx)
	if err != nil {
		return nil, err
	}
	words := "the relay copies its database"
	if files := status.Files; files != nil {
		words += ", " + bytesText(files.Database)
	}
	if bar.out == nil {
		c.PrintErrf("%s, and then hands the copy out\n", words)
	}
	making, made := context.WithCancel(ctx)
	var showing sync.WaitGroup
	showing.Go(func() { showTime(making, bar, words) })
	copied, err := operator.Backup(ctx)
	made()
	showing.Wait()
	return copied, err
}

// showTime shows for how long something has been done, until ctx ends.
func showTime(ctx context.Context, bar *progress, words string) {
	began, tick := time.Now(), time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		bar.show(0, 1, fmt.Sprintf("%s: %v so far", words, time.Since(began).Round(time.Second)))
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// checkNew returns an error if there is such a file.
func checkNew(file string) error {
	_, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return cmp.Or(err, fmt.Errorf("%s: %w", file, fs.ErrExist))
}

// writePart writes a copy into a file and syncs that. It leaves none if that fails.
func writePart(part string, copied *admin.Copy, bar *progress) error {
	return writeNewFrom(part, func(out io.Writer) error {
		for done := int64(0); done < copied.Size; {
			n, err := io.CopyN(out, copied, min(1<<20, copied.Size-done))
			if err != nil {
				return fmt.Errorf("the copy ends after %d bytes of %d: %v", done+n, copied.Size, err) //nolint:errorlint // no relay answers, explain would say
			}
			done += n
			bar.show(done, copied.Size, fmt.Sprintf("%s of %s", bytesText(done), bytesText(copied.Size)))
		}
		return nil
	})
}

// keepPart gives a whole copy its name.
func keepPart(part, file string) error {
	if err := checkNew(file); err != nil {
		return err
	}
	if err := os.Rename(part, file); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(file))
}

// backupTime is the metric of when the last backup began. It isn't there if there is none.
type backupTime struct{ store store.Store }

var backupTimeDesc = prometheus.NewDesc("relay_last_backup_timestamp_seconds", "When the last backup began that relay backup has made.", nil, nil)

// Describe implements prometheus.Collector.
func (backupTime) Describe(descs chan<- *prometheus.Desc) { descs <- backupTimeDesc }

// Collect implements prometheus.Collector.
func (b backupTime) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	began, err := admin.LastBackup(ctx, b.store)
	switch {
	case errors.Is(err, store.ErrClosed):
	case err != nil:
		metrics <- prometheus.NewInvalidMetric(backupTimeDesc, err)
	case !began.IsZero():
		metrics <- prometheus.MustNewConstMetric(backupTimeDesc, prometheus.GaugeValue, float64(began.Unix()))
	}
}

// scrapeTime bounds how long a scrape waits for the database.
const scrapeTime = 5 * time.Second
