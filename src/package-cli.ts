console.log('package-cli: nothing yet');
