package sqlite

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A path at which there is nothing of a relay is refused, and nothing is made there.
func TestMistypedPath(t *testing.T) {
	_, backup, _, _ := backedUp(t)
	open := func(path string) error {
		s, err := Open(path, Options{})
		if err == nil {
			err = s.Close()
		}
		return err
	}
	repair := func(path string) error {
		_, err := Repair(path)
		return err
	}
	restore := func(path string) error { return Restore(t.Context(), backup, path, RestoreOptions{}) }
	from := func(path string) error { // as a backup
		return Restore(t.Context(), path, filepath.Join(filepath.Dir(path), "new.db"), RestoreOptions{})
	}
	folder := filepath.Join(t.TempDir(), "folder")
	for name, make := range map[string]func(path string) error{
		"nothing":        func(string) error { return nil },
		"a text":         func(path string) error { return os.WriteFile(path, []byte("a text of somebody"), 0o600) },
		"a folder":       func(path string) error { return os.Mkdir(path, 0o700) },
		"other database": otherDatabase,
	} {
		for doing, do := range map[string]func(string) error{"open": open, "repair": repair, "restore": restore, "restore from": from} {
			if name == "nothing" && (doing == "open" || doing == "restore") {
				continue // which make a database
			}
			require.NoError(t, os.RemoveAll(folder))
			require.NoError(t, os.Mkdir(folder, 0o700))
			path := filepath.Join(folder, "mistyped.db")
			require.NoError(t, make(path))
			before, _ := os.ReadFile(path) // which may be no file
			names := namesIn(t, folder)
			require.Error(t, do(path), "%s: %s", name, doing)
			require.Equal(t, names, namesIn(t, folder), "%s: %s", name, doing)
			after, _ := os.ReadFile(path)
			require.Equal(t, before, after, "%s: %s", name, doing)
		}
	}
}

func otherDatabase(path string) error {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	if _, err := db.Exec("CREATE TABLE other (x)"); err != nil {
		return err
	}
	return db.Close()
}

func namesIn(t *testing.T, folder string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
