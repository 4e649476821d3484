"""What revenue to expect of a state and action: trees and networks fitted on all logs."""
