package main

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// rounds of PBKDF2: some hundredths of a second for each guess.
	rounds = 100_000
	// sessionLife is how long a login lasts; mostSessions bounds the memory that logins take.
	sessionLife  = 24 * time.Hour
	mostSessions = 1000
)

// account is the one user, as DATA/admin.json keeps it. That file stands for
// the real program's database: the configured password is taken at the first
// start only, and `grafana cli admin reset-admin-password` changes it.
type account struct {
	Login string `json:"login"`
	Salt  []byte `json:"salt"`
	Hash  []byte `json:"hash"`
}

func accountPath(s *settings) string { return filepath.Join(s.data, "admin.json") }

// setAdmin writes the account with a new password: beside, then renamed.
func setAdmin(s *settings, password string) error {
	if password == "" {
		return errors.New("cannot set an empty password")
	}
	a := account{Login: s.adminUser, Salt: make([]byte, 16)}
	_, _ = rand.Read(a.Salt) // never fails
	var err error
	if a.Hash, err = a.hash(password); err != nil {
		return err
	}
	content, err := json.Marshal(a)
	if err != nil {
		return err
	}
	path := accountPath(s)
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		return fmt.Errorf("cannot make the data folder: %w", err)
	}
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return fmt.Errorf("cannot write the account: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("cannot write the account: %w", err)
	}
	return nil
}

func (a *account) hash(password string) ([]byte, error) {
	return pbkdf2.Key(sha256.New, password, a.Salt, rounds, sha256.Size)
}

// admin answers who may come in.
type admin struct {
	path string

	mutex    sync.Mutex
	account  account
	modified time.Time            // of the file that the account was read from
	proved   [sha256.Size]byte    // the name and password that were right last, hashed: most requests repeat them
	sessions map[string]time.Time // by token, when they end
}

// openAdmin reads the account, and makes it at the first start.
func openAdmin(s *settings) (*admin, error) {
	if _, err := os.Stat(accountPath(s)); errors.Is(err, fs.ErrNotExist) {
		if err := setAdmin(s, s.adminPassword); err != nil {
			return nil, err
		}
	}
	a := &admin{path: accountPath(s), sessions: map[string]time.Time{}}
	return a, a.refresh()
}

// refresh rereads the account if its file has changed. It is what stands for the database's health.
func (a *admin) refresh() error {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	status, err := os.Stat(a.path)
	if err != nil {
		return fmt.Errorf("cannot read the account: %w", err)
	}
	if status.ModTime().Equal(a.modified) {
		return nil
	}
	content, err := os.ReadFile(a.path)
	if err == nil {
		err = json.Unmarshal(content, &a.account)
	}
	if err != nil {
		return fmt.Errorf("cannot read the account %s: %w", a.path, err)
	}
	a.modified = status.ModTime()
	a.proved = [sha256.Size]byte{}
	clear(a.sessions)
	return nil
}

// check says whether name and password are right. Guesses are worked out one after the other, which bounds them.
func (a *admin) check(name, password string) bool {
	if a.refresh() != nil {
		return false
	}
	a.mutex.Lock()
	defer a.mutex.Unlock()
	given := sha256.Sum256([]byte(name + "\x00" + password))
	if subtle.ConstantTimeCompare(given[:], a.proved[:]) == 1 {
		return true
	}
	hash, err := a.account.hash(password)
	if err != nil || subtle.ConstantTimeCompare(hash, a.account.Hash)&subtle.ConstantTimeCompare([]byte(name), []byte(a.account.Login)) != 1 {
		return false
	}
	a.proved = given
	return true
}

// login opens a session and gives its token.
func (a *admin) login(now time.Time) string {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	for token, end := range a.sessions {
		if now.After(end) || len(a.sessions) >= mostSessions {
			delete(a.sessions, token)
		}
	}
	token := rand.Text()
	a.sessions[token] = now.Add(sessionLife)
	return token
}

func (a *admin) logout(token string) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	delete(a.sessions, token)
}

func (a *admin) known(token string, now time.Time) bool {
	if a.refresh() != nil {
		return false
	}
	a.mutex.Lock()
	defer a.mutex.Unlock()
	end, ok := a.sessions[token]
	return ok && now.Before(end)
}
